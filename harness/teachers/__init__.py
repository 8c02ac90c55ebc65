"""Teachers: trained or loaded, single or as an ensemble, and what they answer on each sample, stored once."""
