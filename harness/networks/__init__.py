"""Networks that a task builds: whether they can be trained, compared, kept and told from others."""
