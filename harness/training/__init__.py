"""How one student is trained: resumable after each epoch, and what is kept of it."""
