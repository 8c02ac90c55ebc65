"""Keep the import path that space files use since 0.1; the code is in ``lightning_modules.data.tensors``."""

from lightning_modules.data.tensors import Split, TensorDataModule

__all__ = ["Split", "TensorDataModule"]
