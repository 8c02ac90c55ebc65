"""Folders of pictures: splits by content, what networks are shown, and what is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_modules.data import ImageFolders
from lightning_modules.data.reading import UnreadableData

pytest.importorskip("torchvision", reason="pip install 'kd-harness[vision]'")

COUNT = 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures each of two classes, of 12 x 8 pixels, all different."""
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for place in range(COUNT):
            pixels = draw.integers(0, 256, (8, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{place}.png")
    return tmp_path


def files(data: ImageFolders, split: str) -> list[str]:
    pictures = data.splits[split].dataset.pictures  # type: ignore[attr-defined]
    return [f"{picture.file.parent.name}/{picture.file.name}" for picture in pictures]


def test_each_class_is_split_by_content_whatever_its_pictures_are_called(folder: Path, tmp_path: Path) -> None:
    data = ImageFolders(folder, size=8)
    assert data.class_names == ("cat", "dog")
    assert {name: torch.bincount(part.labels).tolist() for name, part in data.splits.items()} == {
        "train": [6, 6],
        "val": [2, 2],
        "test": [2, 2],
    }
    digests = {name: [p.digest for p in part.dataset.pictures] for name, part in data.splits.items()}  # type: ignore[attr-defined]
    for name in ("cat", "dog"):
        for place in range(COUNT):
            (folder / name / f"{place}.png").rename(folder / name / f"was-{COUNT - place}.png")
    again = ImageFolders(folder, size=8)
    for name, part in again.splits.items():
        assert sorted(p.digest for p in part.dataset.pictures) == sorted(digests[name])  # type: ignore[attr-defined]


def test_copies_of_a_picture_are_in_one_split_in_whatever_class(folder: Path) -> None:
    for place in range(COUNT):
        shutil.copy(folder / "cat" / f"{place}.png", folder / "cat" / f"copy-{place}.png")
        shutil.copy(folder / "cat" / f"{place}.png", folder / "dog" / f"no-dog-{place}.png")
    data = ImageFolders(folder, size=8)
    seen = [{p.digest for p in part.dataset.pictures} for part in data.splits.values()]  # type: ignore[attr-defined]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    assert sum(len(part) for part in data.splits.values()) == 4 * COUNT


def test_a_folder_with_splits_keeps_them(folder: Path, tmp_path: Path) -> None:
    top = tmp_path / "split"
    for name, places in (("train", range(6)), ("val", range(6, 8)), ("test", range(8, 10))):
        for label in ("cat", "dog"):
            (top / name / label).mkdir(parents=True)
            for place in places:
                shutil.copy(folder / label / f"{place}.png", top / name / label)
    data = ImageFolders(top, size=8)
    assert files(data, "val") == ["cat/6.png", "cat/7.png", "dog/6.png", "dog/7.png"]
    shutil.rmtree(top / "test" / "dog")
    with pytest.raises(ValueError, match="all splits must have the same classes, but 'dog' is not in both"):
        ImageFolders(top, size=8)


def test_the_middle_of_a_picture_is_shown_normalised(folder: Path) -> None:
    data = ImageFolders(folder, size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    shown = data.splits["val"].few(1)
    with Image.open(folder / files(data, "val")[0]) as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[:, :, 2:10] / 255
    expected = (pixels - 0.5) / torch.tensor([0.25, 0.5, 1.0])[:, None, None]
    assert isinstance(shown.inputs, torch.Tensor)
    torch.testing.assert_close(shown.inputs[0], expected)
    assert tuple(ImageFolders(folder, size=4).splits["val"].few(2).inputs.shape) == (2, 3, 4, 4)  # type: ignore[union-attr]


def test_data_are_told_apart_by_their_pictures_and_by_how_they_are_shown(folder: Path) -> None:
    def fingerprint(**how: object) -> str | None:
        return ImageFolders(folder, **{"size": 8, **how}).splits["train"].fingerprint  # type: ignore[arg-type]

    first = fingerprint()
    assert first == fingerprint() != fingerprint(size=4) != fingerprint(size=4, mean=(0, 0, 0))
    train = files(ImageFolders(folder, size=8), "train")[0]
    Image.fromarray(np.zeros((8, 12, 3), dtype=np.uint8)).save(folder / train)
    assert fingerprint() != first


def test_pictures_are_named_by_their_paths(folder: Path, tmp_path: Path) -> None:
    data = ImageFolders(folder, size=8)
    for name, part in data.splits.items():
        assert part.ids == tuple(files(data, name)) and part.few(2).ids == part.ids[:2]
    top = tmp_path / "split"
    for name in ("train", "val", "test"):
        shutil.copytree(folder / "cat", top / name / "cat")
        shutil.copytree(folder / "dog", top / name / "dog")
    assert (ImageFolders(top, size=8).splits["test"].ids or ())[-1] == "test/dog/9.png"


def test_files_that_are_no_pictures_are_refused_or_left_out_as_told(folder: Path) -> None:
    (folder / "cat" / "0.png").write_text("no picture")
    (folder / "dog" / "1.png").write_bytes((folder / "dog" / "1.png").read_bytes()[:20])
    (folder / "dog" / "notes.txt").write_text("not looked at")
    with pytest.raises(ValueError, match=r"2 files in .* can't be read as pictures \(.*0.png, .*1.png\); remove them"):
        ImageFolders(folder, size=8)
    data = ImageFolders(folder, size=8, skip_unreadable=True)
    assert [path.name for path in data.skipped] == ["0.png", "1.png"]
    (note,) = data.notes
    assert note.startswith("2 files in ") and note.endswith("1.png), and are left out")
    assert sum(map(len, data.splits.values())) == 2 * COUNT - 2


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: None, "needs a folder of pictures: name it by --data-dir"),
        (lambda folder: folder / "none", "but there is no folder"),
        (
            lambda folder: folder / "cat",
            "must have a folder of pictures for each of two classes",
        ),
    ],
)
def test_a_folder_without_classes_is_refused(folder: Path, make: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ImageFolders(make(folder), size=8)  # type: ignore[operator]


def test_a_class_of_too_few_pictures_for_its_splits_is_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4, 3), len(name) + ord(name[0]), dtype=np.uint8)).save(tmp_path / name / "0.png")
    with pytest.raises(ValueError, match="must have a picture for val at least, but has none"):
        ImageFolders(tmp_path, size=4)


def test_pictures_in_a_folder_unlabelled_beside_the_splits_train_without_a_label(folder: Path, tmp_path: Path) -> None:
    top = tmp_path / "parts"
    for place, name in enumerate(("train", "val", "test")):
        for kind in ("cat", "dog"):
            (top / name / kind).mkdir(parents=True)
            shutil.copy(folder / kind / f"{place}.png", top / name / kind / "one.png")
    (top / "unlabelled" / "some").mkdir(parents=True)
    shutil.copy(folder / "cat" / "5.png", top / "unlabelled" / "some" / "a.png")
    data = ImageFolders(top, size=8)
    assert data.class_names == ("cat", "dog")
    assert data.splits["train"].labels.tolist() == [0, 1, -100]
    assert [len(data.splits[name]) for name in ("val", "test")] == [2, 2]
    assert data.splits["train"].ids == ("train/cat/one.png", "train/dog/one.png", "unlabelled/some/a.png")
    (top / "unlabelled" / "some" / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1 files in .* can't be read as pictures \(.*b\.png\)"):
        ImageFolders(top, size=8)


def test_a_jpeg_that_is_cut_is_no_picture_and_one_that_is_cut_later_is_named(folder: Path) -> None:
    for place in range(2):
        with Image.open(folder / "cat" / f"{place}.png") as image:
            image.resize((64, 64)).save(folder / "cat" / f"{place}.jpg")
    whole = (folder / "cat" / "0.jpg").read_bytes()
    (folder / "cat" / "0.jpg").write_bytes(whole[: len(whole) // 2])  # its header is complete
    (folder / "cat" / "1.jpg").write_bytes((folder / "cat" / "1.jpg").read_bytes() + b"more")
    data = ImageFolders(folder, size=8, skip_unreadable=True)
    assert [path.name for path in data.skipped] == ["0.jpg"]
    picture = data.splits["val"].dataset.pictures[0]  # type: ignore[attr-defined]
    picture.file.write_bytes(b"no picture")
    with pytest.raises(
        UnreadableData, match=rf"^sample 0 of val can't be read: OSError: {re.escape(str(picture.file))}: "
    ):
        list(data.ordered("val"))
