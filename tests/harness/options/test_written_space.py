"""The space file that ``--data`` stands for: what is in it, when it is written, and what is refused."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from harness.options.commands import search_settings, space_of
from harness.options.given import Given, InvalidOption
from harness.options.written_space import written_space


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a folder of two classes and a table beside it."""
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog", ".hidden"):
        (tmp_path / "my-photos" / name).mkdir(parents=True)
    (tmp_path / "wine.csv").write_text("alcohol,colour,class\n12.5,red,a\n")
    return tmp_path


def given(**options: Any) -> Given:
    return Given(options, spell=lambda name: f"--{name.replace('_', '-')}", program="kd-harness")


def test_a_folder_of_pictures_becomes_a_space_of_its_classes_and_networks(here: Path) -> None:
    asked = given(data="my-photos", teacher=("timm:resnet18@w.safetensors",), students="timm:a,b,torchvision:c")
    file = written_space(asked)
    text = file.read_text()
    ast.parse(text)
    assert file == Path("my_photos_space.py") and len(text.splitlines()) < 60
    assert "CLASSES = ('cat', 'dog')" in text and f"FOLDER = {str(here / 'my-photos')!r}" in text
    assert "network('timm:resnet18@w.safetensors', classes=len(CLASSES), pretrained=True)" in text
    assert "['timm:a', 'timm:b', 'torchvision:c']" in text and "size=96" in text
    assert space_of(asked) == ("my-photos-space", file)
    assert search_settings(asked, *space_of(asked)).teachers == ()


def test_a_table_becomes_a_space_of_its_column(here: Path) -> None:
    text = written_space(given(data="wine.csv", label="class")).read_text()
    ast.parse(text)
    assert f"FILE, LABEL = {str(here / 'wine.csv')!r}, 'class'" in text and "class Wine(Task):" in text


def test_texts_become_a_space_of_a_language_model_and_small_ones(here: Path) -> None:
    (here / "reviews.csv").write_text("title,stars\ngood tea,5\n")
    (here / "model").mkdir()
    options = {"text": "title", "label": "stars", "teacher": ("hf:model",), "students": "bert"}
    asked = given(data="reviews.csv", **options)
    file = written_space(asked)
    text = file.read_text()
    ast.parse(text)
    assert file == Path("reviews_space.py") and len(text.splitlines()) < 60
    assert f"TEACHER = {str(here / 'model')!r}" in text and "class Reviews(Task):" in text
    assert "text_classes(FILE, text='title', label='stars')" in text
    assert search_settings(asked, *space_of(asked)).teachers == ()
    (here / "reviews.jsonl").write_text('{"title": "good tea", "stars": 5}\n')
    file.unlink()
    assert "reviews.jsonl" in written_space(given(data="reviews.jsonl", **options)).read_text()
    of_folders = written_space(given(data="my-photos", teacher=("hf:a/name",))).read_text()
    ast.parse(of_folders)
    assert "TEACHER = 'a/name'" in of_folders and "text_classes(FILE)" in of_folders


def test_splits_of_their_own_have_the_classes_of_the_training_split(here: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("0", "1", "2"):
            (here / "parts" / split / name).mkdir(parents=True)
    text = written_space(given(data="parts")).read_text()
    assert "CLASSES = ('0', '1', '2')" in text and "network('timm:resnet18'" in text


def test_the_same_options_find_the_file_and_others_do_not_overwrite_it(here: Path) -> None:
    file = written_space(given(data="my-photos"))
    assert written_space(given(data="my-photos")) == file
    file.write_text(file.read_text() + "\n# edited\n")
    with pytest.raises(InvalidOption, match=r"--data would write my_photos_space\.py, which is there and differs"):
        written_space(given(data="my-photos"))
    assert file.read_text().endswith("# edited\n")


TEXTS = {"data": "wine.csv", "text": "colour", "label": "class", "teacher": ("hf:a",)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "none"}, "--data must be a folder of pictures or texts, or a table, but there is no 'none'"),
        (
            {"data": "notes.txt"},
            r"--data must be a folder of pict.*, or a table \(.csv .tsv .parquet .jsonl\), but got 'n",
        ),
        ({"data": "empty"}, "must have a folder of pictures for each of two classes at least, .* but has none"),
        ({"data": "my-photos", "label": "class"}, "--label names a column of a table, but my-photos is a folder"),
        ({"data": "my-photos", "space": "digits"}, "stands for a space, so --space must be left out"),
        ({"data": "my-photos", "students": "resnet18"}, "--students must be timm:NAME or torchvision:NAME"),
        ({"data": "my-photos", "students": "timm:a,a"}, "--students must be different networks"),
        ({"data": "my-photos", "teacher": ("timm:",)}, "--teacher must be timm:NAME or torchvision:NAME"),
        ({"data": "my-photos", "teacher": ("timm:a", "b.pt")}, "--teacher must be one network of a library alone"),
        ({"data": "my-photos", "image_size": "8"}, "--image-size must be at least 16 pixels, but got 8"),
        ({"data": "wine.csv"}, "--label is required"),
        ({"data": "wine.csv", "label": "clas"}, "it has no 'clas'; did you mean class?"),
        ({"data": "wine.csv", "label": "class", "students": "timm:a"}, "--students is of pictures, but wine.csv is a"),
        ({"data": "wine.csv", "label": "class", "teacher": ("timm:a",)}, "a network of a library is taught by pict"),
        ({"data": "wine.csv", "label": "class", "text": "colour"}, "--teacher is required for texts: hf:FOLDER of sav"),
        ({"data": "wine.csv", "label": "class", "teacher": ("hf:a",)}, "--text is required"),
        ({"data": "wine.csv", "text": "color", "label": "class"}, "it has no 'color'; did you mean colour?"),
        ({**TEXTS, "teacher": ("hf:",)}, "--teacher must be one hf:FOLDER or hf:NAME for texts"),
        ({**TEXTS, "teacher": ("hf:a", "b.pt")}, "--teacher must be one hf:FOLDER or hf:NAME for texts"),
        ({**TEXTS, "students": "timm:a"}, "--students must be bert for texts, but got 'timm:a'"),
        ({**TEXTS, "image_size": "32"}, "--image-size is of pictures, but wine.csv is taken as texts"),
        ({"data": "my-photos", "teacher": ("hf:a",), "text": "t"}, "--text names a column of a table, but my-photos"),
        ({"data": "lines.jsonl", "label": "a"}, "lines.jsonl is a table of texts: give --text, the column of the te"),
    ],
)
def test_what_is_no_space_is_refused_and_nothing_is_written(here: Path, options: dict[str, Any], message: str) -> None:
    (here / "notes.txt").touch()
    (here / "empty").mkdir()
    (here / "lines.jsonl").write_text("{}\n")
    with pytest.raises(InvalidOption, match=message):
        written_space(given(**options))
    assert not list(here.glob("*.py"))


def test_options_of_data_are_refused_without_it(here: Path) -> None:
    for name, value in (("label", "class"), ("text", "a"), ("students", "timm:a"), ("image_size", "32")):
        with pytest.raises(InvalidOption, match=f"--{name.replace('_', '-')} needs --data"):
            space_of(given(**{name: value}))
    with pytest.raises(InvalidOption, match="--teacher timm:resnet18 needs --data, pictures or texts"):
        search_settings(given(teacher=("timm:resnet18",)), "digits", None)
