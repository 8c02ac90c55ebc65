"""Data for training: splits, data modules that serve them in batches, and views of samples."""

from lightning_modules.data.augment import Augment, CutMix, Mix, MixUp
from lightning_modules.data.disk import DatasetDataModule
from lightning_modules.data.images import ImageFolders
from lightning_modules.data.packed import PackedText
from lightning_modules.data.padded import PaddedDataModule
from lightning_modules.data.splits import stratified_splits
from lightning_modules.data.tables import Tables
from lightning_modules.data.tensors import Split, TensorDataModule
from lightning_modules.data.texts import Texts, text_classes
from lightning_modules.data.views import Views

__all__ = [
    "Augment",
    "CutMix",
    "DatasetDataModule",
    "ImageFolders",
    "Mix",
    "MixUp",
    "PackedText",
    "PaddedDataModule",
    "Split",
    "Tables",
    "TensorDataModule",
    "Texts",
    "Views",
    "stratified_splits",
    "text_classes",
]
