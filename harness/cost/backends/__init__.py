"""Cost backends, a file each: a module of this folder with a ``BACKEND`` is listed, declared and measured with."""
