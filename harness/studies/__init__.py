"""A study: opened or resumed, what it says of itself, how its trials are claimed and told, moved whole."""
