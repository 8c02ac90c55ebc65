"""Studies: created or resumed, their attributes, claimed trials, moved to another storage."""
