"""Where studies live, how they are reached, and who is at work on what, on one machine and on many."""
