"""Serve photographs in a folder for each class (``pip install 'kd-harness[vision]'``)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_modules.batch import UNLABELLED
from lightning_modules.data.augment import Augment, Transform
from lightning_modules.data.dataset_split import DatasetSplit
from lightning_modules.data.disk import DatasetDataModule

SPLITS = ("train", "val", "test")
_ALONE = "unlabelled"  # folder of pictures without a label
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_COMPLETE = {".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}  # ends of complete files, whose content is checked by none
_SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
_ROUNDING = 1e-3  # by which a resized picture may leave [0, 1]
_SHOWN = 3  # pictures that are named
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Picture:
    """A picture of a folder.

    Attributes:
        file: Its file.
        name: Its path in the folder of all pictures, which names it for teachers whose outputs come from a file.
        label: Index of its class; ``UNLABELLED`` if it has none.
        digest: Hash of the file's bytes.
    """

    file: Path
    name: str
    label: int
    digest: str


class PictureDataset(Dataset[Any]):
    """Reads pictures: the shorter side scaled to ``size``, the middle square cut out, normalised.

    Args:
        pictures: The pictures.
        size: Pixels of a side.
        mean: Mean of each channel, of values in [0, 1], that is subtracted.
        std: Deviation of each channel that values are divided by.
    """

    def __init__(self, pictures: Sequence[Picture], *, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        from torchvision.transforms import v2

        self.pictures = tuple(pictures)
        self.targets = [picture.label for picture in pictures]
        self.ids = [picture.name for picture in pictures]
        self._see = v2.Compose(
            [
                v2.Resize(size, antialias=True),
                v2.CenterCrop(size),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(list(mean), list(std)),
            ]
        )
        known = "".join(f"{picture.digest}{picture.label} " for picture in pictures)
        self.fingerprint = hashlib.sha256(f"{known}{size} {mean} {std}".encode()).hexdigest()[:16]
        """Stands for all that the dataset gives, in place of reading it."""

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self._see(self._pixels(place)), self.targets[place]

    def augmented(self, place: int, transform: Transform) -> tuple[Tensor, int]:
        """Return a picture, transformed before it is scaled, cut and normalised, and its label.

        Args:
            place: Position of the picture.
            transform: Called with its pixels (3, H, W), uint8, at the size of the file.

        Raises:
            ValueError: If it returns no pixels (3, H, W), uint8 or floats in [0, 1].
        """
        pixels = transform(self._pixels(place))
        if not isinstance(pixels, Tensor) or pixels.ndim != 3 or len(pixels) != 3:
            found = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
            raise ValueError(f"a transform must return pixels (3, H, W), but returned {found}.")
        if not pixels.is_floating_point() and pixels.dtype != torch.uint8:
            raise ValueError(
                f"a transform must return uint8 or floats in [0, 1], but got {pixels.dtype}; .to(torch.uint8) does."
            )
        if pixels.is_floating_point() and not -_ROUNDING <= float(pixels.min()) <= float(pixels.max()) <= 1 + _ROUNDING:
            raise ValueError(
                f"a transform must return uint8 or floats in [0, 1], but returned {float(pixels.min()):.3g} to "
                f"{float(pixels.max()):.3g}; leave normalising to mean= and std= of the folder."
            )
        return self._see(pixels.as_subclass(Tensor)), self.targets[place]

    def _pixels(self, place: int) -> Tensor:
        """Return the pixels of a picture (3, H, W), uint8, as they are in the file."""
        from PIL import Image
        from torchvision.transforms.v2 import functional

        file = self.pictures[place].file
        try:
            with Image.open(file) as image:
                pixels: Tensor = functional.pil_to_tensor(image.convert("RGB"))
        except OSError as error:
            raise OSError(f"{file}: {error}") from error
        return pixels


class ImageFolders(DatasetDataModule):
    """Data module of pictures in a folder for each class, which are read while networks train.

    A folder with ``train``, ``val`` and ``test`` in it has its own splits; pictures in a folder ``unlabelled`` beside
    them, at whatever depth, are training samples that the teacher alone labels. Otherwise each class is split by the
    content of its pictures, 60, 20 and 20 %: always alike, whatever they are called, and copies of one picture never
    part.

    Args:
        folder: The folder.
        size: Pixels of a side of what networks are shown.
        batch_size: Samples in a training batch.
        eval_batch_size: Samples in an evaluation batch; by default as many.
        workers: Processes that read pictures ahead of their use.
        mean: Mean of each channel, of values in [0, 1]: ImageNet's by default.
        std: Deviation of each channel. Normalising is part of what a deployed network is given: it is said here alone.
        augment: Augments training pictures: its transform is called with the pixels of the file (3, H, W), uint8; what
            it returns is scaled to ``size``, cut and normalised as every picture is. ``None`` shows them as they are.
        skip_unreadable: Whether files that are no pictures are left out; otherwise they are refused.
        folds: As of ``TensorDataModule``; copies of one picture stay in one fold.

    Attributes:
        class_names: Names of the classes: those of the folders, sorted.
        skipped: Files that were left out.

    Raises:
        ImportError: If torchvision is not installed.
        ValueError: If there are fewer than two classes or a split without pictures, a file can't be read, or the splits
            have other classes.
    """

    def __init__(
        self,
        folder: Path | str | None,
        *,
        size: int,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        workers: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        augment: Augment | None = None,
        skip_unreadable: bool = False,
        folds: int | None = None,
    ) -> None:
        try:
            import torchvision  # noqa: F401
        except ImportError as error:
            raise ImportError("ImageFolders needs torchvision: pip install 'kd-harness[vision]'") from error
        if folder is None:
            raise ValueError("ImageFolders needs a folder of pictures: name it by --data-dir.")
        top = Path(folder)
        if not top.is_dir():
            raise ValueError(
                f"a folder with a folder of pictures for each class is needed, but there is no folder {top}."
            )
        has_splits = all((top / name).is_dir() for name in SPLITS)
        names = _class_names([top / name for name in SPLITS] if has_splits else [top])
        found, unreadable = _read_pictures(top, names, SPLITS if has_splits else ("",))
        if has_splits and (top / _ALONE).is_dir():
            found[_ALONE], more = _read_folder(top, top / _ALONE, UNLABELLED)
            unreadable += more
        _check_readable(top, unreadable, skip=skip_unreadable)
        parts = found if has_splits else _split_by_content(found[""])
        parts["train"] = [*parts["train"], *parts.pop(_ALONE, [])]
        for name, pictures in parts.items():
            if not pictures:
                raise ValueError(f"{top} must have a picture for {name} at least, but has none.")
        sets = {name: PictureDataset(pictures, size=size, mean=mean, std=std) for name, pictures in parts.items()}
        super().__init__(
            train=sets["train"],
            val=sets["val"],
            test=sets["test"],
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            workers=workers,
            augment=augment,
            folds=folds,
            groups=None if folds is None else [one.digest for name in SPLITS[:2] for one in parts[name]],
        )
        self.class_names = names
        self.skipped = tuple(unreadable)
        if unreadable:
            self.notes = (f"{_unreadable_text(top, unreadable)}, and are left out",)
        self._show: dict[str, Any] = {"size": size, "mean": mean, "std": std}
        self._skips, self._workers = skip_unreadable, workers
        self._searched = frozenset(one.digest for name in ("train", "val") for one in parts[name])

    def new_samples(self, path: Path) -> DatasetSplit:
        """Return the pictures of another folder, scaled, cut and normalised as these.

        Of a folder with ``train``, ``val`` and ``test`` in it, these are the pictures of ``test``, and else all.

        Args:
            path: The folder, with a folder of pictures for each class.

        Raises:
            ValueError: If it has other classes, no pictures, or some that were trained on or chosen by.
        """
        if not path.is_dir():
            raise ValueError(f"a folder with a folder of pictures for each class is needed, but {path} is none.")
        top = path / "test" if all((path / name).is_dir() for name in SPLITS) else path
        names = _class_names([top])
        if odd := sorted({*names} ^ {*self.class_names}):
            where = f"has no {odd[0]!r}" if odd[0] in self.class_names else f"has {odd[0]!r} beside them"
            raise ValueError(
                f"new pictures must have the {len(self.class_names)} classes that were trained on, but {top} {where}."
            )
        found, unreadable = _read_pictures(top, names, ("",))
        _check_readable(top, unreadable, skip=self._skips)
        if not found[""]:
            raise ValueError(f"{top} must have a picture at least, but has none.")
        if seen := [one.file for one in found[""] if one.digest in self._searched]:
            raise ValueError(
                f"{len(seen):,} of the {len(found['']):,} pictures in {top} were trained on or chosen by ({seen[0]}): "
                "take them out, for they are not new."
            )
        dataset = PictureDataset(found[""], **self._show)
        return DatasetSplit(dataset, workers=self._workers, name="the new pictures")


def _check_readable(top: Path, unreadable: Sequence[Path], *, skip: bool) -> None:
    """Check that all files are pictures, or may be skipped."""
    if unreadable and not skip:
        raise ValueError(f"{_unreadable_text(top, unreadable)}; remove them, or take skip_unreadable=True.")


def _unreadable_text(top: Path, unreadable: Sequence[Path]) -> str:
    """Return how many files are no pictures, the first ones by name."""
    more = f" and {len(unreadable) - _SHOWN:,} more" if len(unreadable) > _SHOWN else ""
    named = f"{', '.join(map(str, unreadable[:_SHOWN]))}{more}"
    return f"{len(unreadable):,} files in {top} can't be read as pictures ({named})"


def _class_names(places: Sequence[Path]) -> tuple[str, ...]:
    """Return the names of the classes, the same in all places."""
    each = [sorted(path.name for path in place.iterdir() if path.is_dir() and path.name[0] != ".") for place in places]
    for place, names in zip(places, each, strict=True):
        if names != each[0]:
            odd = sorted({*names} ^ {*each[0]})
            raise ValueError(
                f"all splits must have the same classes, but {odd[0]!r} is not in both {places[0]} and {place}."
            )
    if len(each[0]) < 2:
        raise ValueError(
            f"{places[0]} must have a folder of pictures for each of two classes at least, but has "
            f"{', '.join(each[0]) or 'none'}."
        )
    return tuple(each[0])


def _read_pictures(
    top: Path, names: Sequence[str], places: Sequence[str]
) -> tuple[dict[str, list[Picture]], list[Path]]:
    """Return the pictures of each place, in the order of their paths, and the files that are no pictures."""
    found: dict[str, list[Picture]] = {}
    unreadable: list[Path] = []
    for place in places:
        found[place] = []
        for label, name in enumerate(names):
            some, more = _read_folder(top, top / place / name, label)
            found[place] += some
            unreadable += more
    return found, unreadable


def _read_folder(top: Path, folder: Path, label: int) -> tuple[list[Picture], list[Path]]:
    """Return the pictures of one label in a folder, in the order of their paths, and the files that are no pictures."""
    from PIL import Image

    found: list[Picture] = []
    unreadable: list[Path] = []
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() not in _SUFFIXES or not file.is_file():
            continue
        content = file.read_bytes()
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.verify()
            if not content.endswith(_COMPLETE.get(file.suffix.lower(), b"")):
                with Image.open(io.BytesIO(content)) as image:
                    image.load()  # what verify() does not do, for files that seem to be cut
        except Exception:  # of many types, by format
            unreadable.append(file)
            continue
        digest = hashlib.sha256(content).hexdigest()[:16]
        found.append(Picture(file, file.relative_to(top).as_posix(), label, digest))
    return found, unreadable


def _split_by_content(pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    """Return the pictures of each split: of each class, in the order of their hashes, the first ones train."""
    parts: dict[str, list[Picture]] = {name: [] for name in SPLITS}
    place: dict[str, str] = {}  # of each content, in whatever class a copy is
    for label in sorted({picture.label for picture in pictures}):
        of_class = [picture for picture in pictures if picture.label == label]
        digests = sorted({picture.digest for picture in of_class})
        first, second = (round(share * len(digests)) for share in (_SHARES["train"], 1 - _SHARES["test"]))
        for count, digest in enumerate(digests):
            place.setdefault(digest, "train" if count < first else "val" if count < second else "test")
        for picture in of_class:
            parts[place[picture.digest]].append(picture)
    return parts
