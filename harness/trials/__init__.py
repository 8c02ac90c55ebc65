"""Train students: claim trials, run, prune and score them, and retrain some as controls or confirmations."""
