"""Running text in chunks: labels are the next tokens, what is held out is no part of what trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from text_models import WORDS, bert_config, tokenizer

from lightning_modules.data import PackedText
from lightning_modules.data.packed import packed
from lightning_modules.outputs import Tokens

pytest.importorskip("transformers", reason="pip install 'kd-harness[text]'")


@pytest.fixture(scope="module")
def words() -> Any:
    return tokenizer()


def write(folder: Path, documents: int, size: int) -> Path:
    """Documents of ``size`` words, each with words of its own at each place."""
    folder.mkdir()
    for number in range(documents):
        text = " ".join(WORDS[(number + place * (number + 1)) % len(WORDS)] for place in range(size))
        (folder / f"{number:02}.txt").write_text(text)
    return folder


def test_labels_are_the_next_tokens_and_the_last_chunk_alone_is_padded() -> None:
    split = packed([[5, 6, 7], [8, 9, 10, 11]], 3, 1)
    assert split is not None and isinstance(split.inputs, dict)  # 5 6 7 | 1 8 9 | 10 11 (1)
    assert split.inputs["input_ids"].tolist() == [[5, 6, 7], [1, 8, 9], [10, 11, 0]]
    assert split.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 0]]
    assert split.labels.tolist() == [[6, 7, 1], [8, 9, 10], [11, 1, -100]]
    assert packed([[5]], 3, None) is None


def test_few_documents_are_cut_and_their_ends_held_out(tmp_path: Path, words: Any) -> None:
    data = PackedText(write(tmp_path / "few", 2, 100), tokenizer=words, length=8, batch_size=4)
    first = words((tmp_path / "few" / "00.txt").read_text(), add_special_tokens=False)["input_ids"]
    train, val = data.splits["train"], data.splits["val"]
    assert isinstance(train.inputs, dict) and isinstance(val.inputs, dict)
    assert train.inputs["input_ids"].flatten()[:81].tolist() == [*first[:80], 3]  # [SEP] ends a document
    assert val.inputs["input_ids"].flatten()[:11].tolist() == [*first[80:90], 3]
    assert data.notes[0] == (
        "160 / 20 / 20 tokens of 2 documents train / validate / test; the end of each document held out"
    )
    for split in data.splits.values():
        assert Tokens().labels_fault(split.labels) is None
    batch = next(iter(data.train_dataloader()))[0]
    assert batch.inputs["input_ids"].shape == batch.target.shape == (4, 8)  # type: ignore[call-overload]


def test_whole_documents_are_held_out_where_there_are_enough(tmp_path: Path, words: Any) -> None:
    folder = write(tmp_path / "many", 20, 30)
    data = PackedText(folder, tokenizer=words, length=8)
    assert data.notes[0] == ("480 / 60 / 60 tokens of 20 documents train / validate / test; whole documents held out")
    assert data.splits["val"].labels.shape == (8, 8)  # 60 tokens and two ends, all but the first
    again = PackedText(folder, tokenizer=words, length=8)
    assert {n: s.fingerprint for n, s in data.splits.items()} == {n: s.fingerprint for n, s in again.splits.items()}
    parts = PackedText(folder, tokenizer=words, length=8, held_out="parts")
    assert "the end of each document" in parts.notes[0]


def test_costs_are_measured_at_the_length_of_a_chunk(tmp_path: Path, words: Any) -> None:
    data = PackedText(write(tmp_path / "few", 2, 200), tokenizer=words, length=16)
    inputs = data.example_inputs(2)
    assert isinstance(inputs, dict) and inputs["input_ids"].shape == (2, 16)


def test_new_texts_are_packed_alike_and_known_ones_refused(tmp_path: Path, words: Any) -> None:
    data = PackedText(write(tmp_path / "few", 2, 200), tokenizer=words, length=16)
    (tmp_path / "new.txt").write_text("tea is not rain " * 20)
    new = data.new_samples(tmp_path / "new.txt")
    assert new.inputs_form == data.splits["test"].inputs_form and len(new) == 5
    with pytest.raises(ValueError, match=r"document 1 of .*few is one of the searched texts"):
        data.new_samples(tmp_path / "few")


def test_what_is_no_running_text_is_refused(tmp_path: Path, words: Any) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "short.txt").write_text("tea")
    for source, how, message in (
        (tmp_path / "empty", {}, "empty must have .txt files, but has none"),
        (tmp_path / "short.txt", {}, r"val must have a chunk of text, but has too little: 1 documents of 1 tokens"),
        (tmp_path / "none.txt", {}, "none.txt must be a file of text, but there is none"),
        (tmp_path, {"length": 1}, "length must be a whole number of at least 2 tokens, but got 1"),
        (tmp_path, {"held_out": "end"}, "held_out must be 'documents' or 'parts', but got 'end'"),
        (None, {}, "PackedText needs a folder or a file of text"),
    ):
        with pytest.raises(ValueError, match=message):
            PackedText(source, **{"tokenizer": words, "length": 8, **how})  # type: ignore[arg-type]


def test_a_network_without_enough_positions_is_told(tmp_path: Path, words: Any) -> None:
    from transformers import BertForMaskedLM

    data = PackedText(write(tmp_path / "few", 2, 400), tokenizer=words, length=33)
    found = data.network_fault(BertForMaskedLM(bert_config()))
    assert (
        found is not None and found[0] == "have a position for each token, but has 32, and texts have up to 33 tokens"
    )
    assert torch.equal(data.mask_of("train").sum(1)[:-1], torch.full((len(data.splits["train"]) - 1,), 33))
