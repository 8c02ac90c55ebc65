"""Keep the import path that space files use since 0.1; the code is in ``lightning_modules.data.splits``."""

from lightning_modules.data.splits import stratified_splits

__all__ = ["stratified_splits"]
