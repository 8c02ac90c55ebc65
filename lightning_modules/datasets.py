"""Keep the import path that space files in use have; the code is in ``lightning_modules.data``."""

from lightning_modules.data.embedded import digits, fashion_mnist
from lightning_modules.data.splits import stratified_splits

__all__ = ["digits", "fashion_mnist", "stratified_splits"]
