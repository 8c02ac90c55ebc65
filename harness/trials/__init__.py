"""Trials, the students trained anew beside them, and which trials are stopped early."""
