"""The engine of the search. It names no modality and no task, and imports nothing heavy by itself."""

import logging

# A GPU build of torch says on every machine without a GPU that it looked for a CUDA runtime to compile extensions with.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
