"""Write the space file that ``--data`` stands for: a whole search without a line of Python. Imports nothing heavy."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from harness.core.content import write_atomically
from harness.options import values
from harness.options.given import Given, InvalidOption
from harness.options.written_columns import read_column
from harness.options.written_text_space import has_texts, is_language_model, of_texts

DATA_OPTIONS = ("label", "text", "students", "image_size")
"""The options that mean something beside ``--data`` alone."""
DEFAULT_TEACHER = "timm:resnet18"
DEFAULT_STUDENTS = "timm:resnet10t,mobilenetv3_small_050,lcnet_050"
DEFAULT_IMAGE_SIZE = 96
TABLES = (".csv", ".tsv", ".parquet")
TABLES_OF_TEXTS = (*TABLES, ".jsonl")
_SPLITS = {"train", "val", "test"}
_MOST_STUDENTS = 64


def written_space(given: Given) -> Path:
    """Return the space file of ``--data``, which is written into the current folder unless it is there.

    Args:
        given: The options of a search, ``data`` among them.

    Raises:
        InvalidOption: If an option is invalid, or another file is in the way.
    """
    if given.has("space"):
        raise InvalidOption(f"{given.spell('data')} stands for a space, so {given.spell('space')} must be left out")
    path = given.read_required("data", _data)
    if has_texts(given):
        text = of_texts(given, path, _class_name(path.stem if path.is_file() else path.absolute().name))
    else:
        text = _of_table(given, path) if path.is_file() else _of_folders(given, path)
    stem = re.sub(r"\W", "_", path.stem if path.is_file() else path.absolute().name, flags=re.ASCII)
    file = Path(f"{stem}_space.py")
    if not file.exists():
        write_atomically(file, lambda new: new.write_text(text, encoding="utf-8"))
    elif file.read_text(encoding="utf-8") != text:
        raise InvalidOption(
            f"{given.spell('data')} would write {file}, which is there and differs: it was edited, or written for "
            f"other options; search it as it is by {given.spell('space')} {file}, or move it away"
        )
    return file


def is_network(teacher: str) -> bool:
    """Return whether ``--teacher`` names a network of a library, such as ``timm:resnet18`` or ``hf:FOLDER``."""
    return teacher.partition(":")[0] in ("timm", "torchvision") or is_language_model(teacher)


def _data(value: object) -> Path:
    """Return the path of a folder of pictures or texts, or of a table."""
    path = Path(str(value))
    if path.is_file() and path.suffix.lower() not in TABLES_OF_TEXTS:
        raise ValueError(
            f"must be a folder of pictures or texts, or a table ({' '.join(TABLES_OF_TEXTS)}), but got {str(value)!r}"
        )
    if not path.exists():
        raise ValueError(f"must be a folder of pictures or texts, or a table, but there is no {str(value)!r}")
    return path


def _image_size(value: object) -> int:
    size = values.at_least_one(value)
    if size < 16:
        raise ValueError(f"must be at least 16 pixels, but got {size}")
    return size


def _network(value: str) -> str:
    if not is_network(value) or is_language_model(value) or not value.partition(":")[2]:
        raise ValueError(
            f"must be timm:NAME or torchvision:NAME, with @FILE.safetensors for weights, but got {value!r}"
        )
    return value


def _networks(value: object) -> list[str]:
    """Return networks, given as a list or joined by commas; one without a library is of the library before it."""
    texts = [str(one) for one in value] if isinstance(value, list | tuple) else str(value).split(",")
    found: list[str] = []
    for text in texts:
        library = found[-1].partition(":")[0] if found else ""
        found.append(_network(text if ":" in text or not library else f"{library}:{text}"))
    if len(set(found)) < len(found) or len(found) > _MOST_STUDENTS:
        raise ValueError(f"must be different networks, {_MOST_STUDENTS} at most, but got {value!r}")
    return found


def _of_folders(given: Given, folder: Path) -> str:
    """Return the space of a folder of pictures for each class."""
    if given.has("label"):
        raise InvalidOption(f"{given.spell('label')} names a column of a table, but {folder} is a folder")
    names = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    classes = sorted(
        path.name
        for path in ((folder / "train").iterdir() if names >= _SPLITS else folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    )
    if len(classes) < 2:
        raise InvalidOption(
            f"{given.spell('data')} {folder} must have a folder of pictures for each of two classes at least, or these "
            f"in folders train, val and test, but has {', '.join(classes) or 'none'}"
        )
    teachers = [text for text in given.read_all("teacher", str) if is_network(text)]
    students = given.read("students", _networks, _networks(DEFAULT_STUDENTS))
    teacher = _checked(given, teachers)
    size = given.read("image_size", _image_size, DEFAULT_IMAGE_SIZE)
    name = _class_name(folder.absolute().name)
    return textwrap.dedent(
        f'''\
        """Pictures in a folder for each class: a pretrained network teaches small ones. Written by --data; edit it."""

        from optuna.distributions import CategoricalDistribution, FloatDistribution

        from harness import SearchSpace, Task
        from lightning_modules.data import ImageFolders
        from lightning_modules.pretrained import network
        from lightning_modules.training import Training

        FOLDER = {str(folder.absolute())!r}
        CLASSES = {tuple(classes)!r}
        HEAD = {{"learning_rate": 10.0}}


        class {name}(Task):
            class_names = CLASSES
            teacher_epochs = 5  # its fresh head alone for the first fifth, then all of it
            teacher_training = Training(
                learning_rate=1e-3,
                groups={{"fc.*": HEAD, "classifier.*": HEAD, "head.*": HEAD, "*": {{"frozen": 0.2}}}},
            )

            def data(self, data_dir):
                return ImageFolders(data_dir or FOLDER, size={size}, batch_size=64, workers=2)

            def teacher(self):
                return network({teacher!r}, classes=len(CLASSES), pretrained=True)

            def student(self, *, family):
                return network(family, classes=len(CLASSES))


        SPACE = SearchSpace(
            task={name}(),
            student={{"family": CategoricalDistribution({students!r})}},
            distillation={{"temperature": FloatDistribution(1, 10, log=True), "alpha": FloatDistribution(0, 1)}},
            training={{"learning_rate": FloatDistribution(1e-3, 3e-2, log=True)}},
            epochs=10,
        )
        '''
    )


def _checked(given: Given, teachers: list[str]) -> str:
    """Return the network that teaches."""
    if len(teachers) > 1 or (teachers and len(given.read_all("teacher", str)) > 1):
        raise InvalidOption(f"{given.spell('teacher')} must be one network of a library alone, if it is one")
    if not teachers:
        return DEFAULT_TEACHER
    try:
        return _network(teachers[0])
    except ValueError as error:
        raise InvalidOption(f"{given.spell('teacher')} {error}") from None


def _of_table(given: Given, file: Path) -> str:
    """Return the space of a table with a column of labels."""
    for name in ("students", "image_size"):
        if given.has(name):
            raise InvalidOption(
                f"{given.spell(name)} is of pictures, but {file} is a table; its students are perceptrons"
            )
    if file.suffix.lower() not in TABLES:
        raise InvalidOption(f"{file} is a table of texts: give {given.spell('text')}, the column of the texts")
    if any(is_network(text) for text in given.read_all("teacher", str)):
        raise InvalidOption(f"a network of a library is taught by pictures, but {file} is a table; leave it out")
    label = read_column(given, "label", file)
    name = _class_name(file.stem)
    return textwrap.dedent(
        f'''\
        """Rows of a table: gradient-boosted trees teach perceptrons. Written by --data; edit it."""

        from functools import cache

        from optuna.distributions import FloatDistribution, IntDistribution
        from sklearn.ensemble import HistGradientBoostingClassifier
        from torch import nn

        from harness import SearchSpace, Task
        from harness.teachers import SklearnTeacher
        from lightning_modules.data import Tables

        FILE, LABEL = {str(file.absolute())!r}, {label!r}


        @cache
        def number_of_classes():
            return len(Tables(FILE, label=LABEL).class_names)


        class {name}(Task):
            def data(self, data_dir):
                return Tables(data_dir or FILE, label=LABEL)

            def teacher(self):
                return SklearnTeacher(HistGradientBoostingClassifier(random_state=0))

            def student(self, *, width, depth):
                hidden = [layer for _ in range(depth) for layer in (nn.LazyLinear(width), nn.ReLU())]
                return nn.Sequential(*hidden, nn.LazyLinear(number_of_classes()))


        SPACE = SearchSpace(
            task={name}(),
            student={{"width": IntDistribution(4, 128, log=True), "depth": IntDistribution(1, 2)}},
            distillation={{"temperature": FloatDistribution(1, 10, log=True), "alpha": FloatDistribution(0, 1)}},
            training={{"learning_rate": FloatDistribution(1e-3, 3e-2, log=True)}},
            epochs=20,
        )
        '''
    )


def _class_name(name: str) -> str:
    """Return the name of a class for the name of a file: ``MyPhotos`` of ``my-photos``."""
    words = re.findall(r"[A-Za-z0-9]+", name)
    found = "".join(word[:1].upper() + word[1:] for word in words)
    return found if found[:1].isalpha() else f"Data{found}"
