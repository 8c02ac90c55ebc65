"""Logging: events go to a file on disk first; a process of its own sends them to a tracker, as MLflow is one."""
