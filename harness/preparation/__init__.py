"""What every trial stands on, each made once and kept: teachers, and what they say of each sample."""
