"""The storage of studies: opened, retried, moved between; leases, heartbeats and locks of workers."""
