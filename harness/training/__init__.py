"""Train one network, resumable after each epoch, and store its checkpoints, weights and predictions."""
