"""Keep the import path that space files in use have; the code is in ``lightning_modules.data.splits``."""

from lightning_modules.data.splits import stratified_splits

__all__ = ["stratified_splits"]
