"""Trackers, one file or folder each; ``harness.tracking.base`` finds whatever stands here."""
