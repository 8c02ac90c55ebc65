"""Launchers start workers, and do nothing else; a worker does not know which one started it."""
