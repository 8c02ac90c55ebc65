"""How students are trained by the built-in module: optimizer, schedule, batches, precision, averaging, smoothing."""

from lightning_modules.training.settings import Training

__all__ = ["Training"]
