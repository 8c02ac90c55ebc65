"""Students in training: by a method and a ``Training``, or by their own code."""
