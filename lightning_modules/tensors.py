"""Keep the import path that space files in use have; the code is in ``lightning_modules.data.tensors``."""

from lightning_modules.data.tensors import Split, TensorDataModule

__all__ = ["Split", "TensorDataModule"]
