"""Write the space file of texts that ``--data`` stands for: a pretrained language model teaches small ones."""

from __future__ import annotations

import textwrap
from pathlib import Path

from harness.options.given import Given, InvalidOption
from harness.options.written_columns import read_column

LANGUAGE_MODELS = "hf"
TEXT_STUDENTS = ("bert",)


def is_language_model(teacher: str) -> bool:
    """Return whether ``--teacher`` names a language model: ``hf:`` and a folder, or a name on a hub."""
    return teacher.partition(":")[0] == LANGUAGE_MODELS


def has_texts(given: Given) -> bool:
    """Return whether ``--data`` is of texts: a column of them is named, or a language model teaches."""
    return given.has("text") or any(map(is_language_model, given.read_all("teacher", str)))


def of_texts(given: Given, path: Path, name: str) -> str:
    """Return the space of texts in a table, or in a folder for each class.

    Args:
        given: The options.
        path: The table or the folder.
        name: Name of the task's class.

    Raises:
        InvalidOption: If an option is invalid.
    """
    if given.has("image_size"):
        raise InvalidOption(f"{given.spell('image_size')} is of pictures, but {path} is taken as texts: leave it out")
    columns = ""
    if path.is_file():
        text, label = (read_column(given, option, path) for option in ("text", "label"))
        columns = f", text={text!r}, label={label!r}"
    elif odd := next((option for option in ("text", "label") if given.has(option)), None):
        raise InvalidOption(f"{given.spell(odd)} names a column of a table, but {path} is a folder")
    given.read("students", _students, TEXT_STUDENTS)
    return textwrap.dedent(
        f'''\
        """Texts: a pretrained language model teaches small ones of its tokenizer. Written by --data; edit it."""

        from functools import cache

        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        from harness import SearchSpace, Task
        from lightning_modules.data import Texts, text_classes
        from lightning_modules.language_models import small_bert, text_classifier
        from lightning_modules.training import Training

        FILE = {str(path.absolute())!r}
        TEACHER = {_teacher(given)!r}
        LENGTH = 128  # tokens: what is longer is cut


        @cache
        def classes():
            return text_classes(FILE{columns})


        class {name}(Task):
            teacher_epochs = 3
            teacher_training = Training(learning_rate=5e-5, groups={{"classifier.*": {{"learning_rate": 10.0}}}})

            def data(self, data_dir):
                return Texts(data_dir or FILE, tokenizer=TEACHER{columns}, max_length=LENGTH)

            def teacher(self):
                return text_classifier(TEACHER, classes=classes())

            def student(self, *, layers, hidden, heads, embedding):
                return small_bert(
                    like=TEACHER, classes=len(classes()), layers=layers, hidden=hidden, heads=heads,
                    embedding=embedding, length=LENGTH,
                )  # fmt: skip


        SPACE = SearchSpace(
            task={name}(),
            student={{
                "layers": IntDistribution(1, 4),
                "hidden": CategoricalDistribution([64, 128, 256]),
                "heads": CategoricalDistribution([2, 4]),
                "embedding": CategoricalDistribution([16, 64]),  # its table of all tokens is the largest part
            }},
            distillation={{"temperature": FloatDistribution(1, 10, log=True), "alpha": FloatDistribution(0, 1)}},
            training={{"learning_rate": FloatDistribution(3e-4, 1e-2, log=True)}},
            epochs=10,
        )
        '''
    )


def _students(value: object) -> tuple[str, ...]:
    """Return the families of students."""
    given = [str(one) for one in value] if isinstance(value, list | tuple) else str(value).split(",")
    if odd := [one for one in given if one not in TEXT_STUDENTS]:
        raise ValueError(f"must be {' or '.join(TEXT_STUDENTS)} for texts, but got {odd[0]!r}")
    return TEXT_STUDENTS


def _teacher(given: Given) -> str:
    """Return the folder or the name of the language model that teaches.

    Raises:
        InvalidOption: If there is none, or more than one.
    """
    teachers = given.read_all("teacher", str)
    option = given.spell("teacher")
    if not teachers:
        raise InvalidOption(
            f"{option} is required for texts: {LANGUAGE_MODELS}:FOLDER of save_pretrained, or {LANGUAGE_MODELS}:NAME "
            "on the Hugging Face Hub"
        )
    name = teachers[0].partition(":")[2]
    if len(teachers) > 1 or not is_language_model(teachers[0]) or not name:
        raise InvalidOption(f"{option} must be one {LANGUAGE_MODELS}:FOLDER or {LANGUAGE_MODELS}:NAME for texts")
    return str(Path(name).absolute()) if Path(name).is_dir() else name
