"""The engine of the search. It names no modality and no task, and imports nothing heavy by itself."""
