"""Labelled texts from tables and folders: read, split, tokenized; what is wrong with them is said in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from text_models import bert_config, rows, tokenizer, write_csv
from torch import nn

from lightning_modules.data import Texts

pytest.importorskip("transformers", reason="pip install 'kd-harness[text]'")


@pytest.fixture(scope="module")
def words() -> Any:
    return tokenizer()


def decoded(data: Texts, split: str) -> list[str]:
    """The texts of a split, from its tokens."""
    return data.tokenizer.batch_decode(data.splits[split].inputs["input_ids"], skip_special_tokens=True)


def write(folder: Path, suffix: str, texts: list[tuple[str, str]]) -> Path:
    """The same texts in a table of some form."""
    file, frame = folder / f"texts{suffix}", pd.DataFrame(texts, columns=["text", "label"])
    if suffix == ".parquet":
        frame.to_parquet(file)
    elif suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
    else:
        frame.to_csv(file, sep="\t" if suffix == ".tsv" else ",", index=False)
    return file


def write_folders(folder: Path, texts: list[tuple[str, str]]) -> Path:
    for number, (text, label) in enumerate(texts):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number}.txt").write_text(text)
    return folder


def test_every_form_of_the_same_texts_gives_the_same_splits(tmp_path: Path, words: Any) -> None:
    texts = rows(100)
    sources = [write(tmp_path, suffix, texts) for suffix in (".csv", ".tsv", ".jsonl", ".parquet")]
    sources.append(write_folders(tmp_path / "folders", texts))
    each = [Texts(source, tokenizer=words) for source in sources]
    shuffled = Texts(write(tmp_path, ".csv", texts[::-1]), tokenizer=words)
    for data in (*each, shuffled):
        assert {name: len(split) for name, split in data.splits.items()} == {"train": 60, "val": 20, "test": 20}
        assert data.class_names == ("negative", "positive") and data.splits["val"].labels.sum() == 10
        for name, split in data.splits.items():
            assert split.fingerprint == each[0].splits[name].fingerprint
    truth = dict(texts)
    for name, split in each[0].splits.items():
        assert [truth[text] for text in decoded(each[0], name)] == [
            each[0].class_names[label] for label in split.labels.tolist()
        ]


def test_tokens_are_the_tokenizers_padded_on_the_right_and_sorted_by_length(tmp_path: Path, words: Any) -> None:
    data = Texts(write_csv(tmp_path / "texts.csv", 60), tokenizer=words)
    inputs = data.splits["train"].inputs
    assert isinstance(inputs, dict) and set(inputs) == {"input_ids", "attention_mask"}
    lengths = inputs["attention_mask"].sum(1)
    assert torch.equal(lengths, lengths.sort().values)
    text = decoded(data, "train")[5]
    own = words(text)["input_ids"]
    assert inputs["input_ids"][5].tolist() == own + [0] * (inputs["input_ids"].shape[1] - len(own))


def test_texts_that_are_too_long_are_cut_by_the_tokenizer_and_counted(tmp_path: Path, words: Any) -> None:
    file = write_csv(tmp_path / "texts.csv", 60)
    longer = sum(len(text.split()) + 2 > 8 for text, _ in rows(60))
    data = Texts(file, tokenizer=words, max_length=8)
    inputs = data.splits["train"].inputs
    assert isinstance(inputs, dict) and inputs["input_ids"].shape[1] == 8
    assert set(inputs["input_ids"].gather(1, inputs["attention_mask"].sum(1, keepdim=True) - 1).flatten().tolist()) == {
        3
    }
    assert f"{longer} of 60 texts are cut to 8 tokens" in data.notes


def test_equal_texts_stay_in_one_split_and_are_left_out_where_it_is_asked(tmp_path: Path, words: Any) -> None:
    texts = rows(50)
    file = write(tmp_path, ".csv", texts * 2)
    data = Texts(file, tokenizer=words)
    each = [set(decoded(data, name)) for name in data.splits]
    assert sum(map(len, each)) == 50 and sum(len(split) for split in data.splits.values()) == 100
    alone = Texts(file, tokenizer=words, deduplicate=True)
    assert sum(len(split) for split in alone.splits.values()) == 50
    assert alone.notes[0] == "50 rows repeat the text of another, and are left out"


def test_a_part_of_the_texts_is_always_the_same(tmp_path: Path, words: Any) -> None:
    texts = rows(100)
    each = [Texts(write(tmp_path, ".csv", some), tokenizer=words, most=50) for some in (texts, texts[::-1])]
    assert [len(split) for split in each[0].splits.values()] == [30, 10, 10]
    assert each[0].notes[0] == "50 of 100 rows are taken"
    assert decoded(each[0], "val") == decoded(each[1], "val")


def test_splits_of_their_own_are_kept(tmp_path: Path, words: Any) -> None:
    texts = rows(40)
    for name, part in (("train", texts[:20]), ("val", texts[20:30]), ("test", texts[30:])):
        write_folders(tmp_path / "parts" / name, part)
    frame = pd.DataFrame(texts, columns=["text", "label"]).assign(part=["train"] * 20 + ["val"] * 10 + ["test"] * 10)
    frame.to_csv(tmp_path / "texts.csv", index=False)
    for data in (
        Texts(tmp_path / "parts", tokenizer=words),
        Texts(tmp_path / "texts.csv", tokenizer=words, split="part"),
    ):
        assert sorted(decoded(data, "val")) == sorted(text for text, _ in texts[20:30])
    assert Texts(tmp_path / "parts", tokenizer=words).splits["val"].ids[0].startswith("val/")  # type: ignore[index]


def test_texts_without_a_label_join_the_training_samples(tmp_path: Path, words: Any) -> None:
    texts = rows(60)
    alone = [(text, "") for text, _ in rows(70)[60:]]
    data = Texts(write(tmp_path, ".csv", [*texts, *alone]), tokenizer=words, unlabelled=True)
    assert len(data.splits["train"]) == 46 and int((data.splits["train"].labels == -100).sum()) == 10
    held_out = decoded(data, "val")[0]
    data = Texts(write(tmp_path, ".csv", [*texts, (held_out, "")]), tokenizer=words, unlabelled=True)
    assert data.notes[0] == "1 rows without a label are left out: their texts are in val or test"
    said = pd.DataFrame([*texts, ("tea", ""), (held_out, "")], columns=["text", "label"])
    said["split"] = ["val" if text == held_out else "train" for text, _ in texts] + ["train"] * 2
    said.loc[:9, "split"] = "test"
    said.loc[10:19, "split"] = "val"
    said.loc[61, "text"] = said.loc[0, "text"]  # of test
    said.to_csv(tmp_path / "said.csv", index=False)
    data = Texts(tmp_path / "said.csv", tokenizer=words, split="split", unlabelled=True)
    assert data.notes[0] == "1 rows without a label are left out: their texts are in val or test"
    assert int((data.splits["train"].labels == -100).sum()) == 1
    with pytest.raises(ValueError, match="label 'label' must be known in each row, but is missing in row 61"):
        Texts(write(tmp_path, ".csv", [*texts, *alone[:1]]), tokenizer=words)


def test_folds_cut_training_and_validation_texts(tmp_path: Path, words: Any) -> None:
    data = Texts(write_csv(tmp_path / "texts.csv", 100), tokenizer=words, folds=4)
    assert [len(fold.splits["val"]) for fold in data.folds] == [20] * 4
    for fold in data.folds:
        batch = next(iter(fold.train_dataloader()))[0]
        assert batch.mask is not None and batch.inputs["input_ids"].shape == batch.mask.shape  # type: ignore[call-overload]


def test_new_texts_have_the_form_of_the_searched_ones(tmp_path: Path, words: Any) -> None:
    texts = rows(120)
    data = Texts(write(tmp_path, ".csv", texts[:100]), tokenizer=words)
    (tmp_path / "new").mkdir()
    new = data.new_samples(write(tmp_path / "new", ".csv", texts[100:]).parent)
    assert len(new) == 20 and new.inputs_form == data.splits["test"].inputs_form
    long = data.new_samples(write(tmp_path / "new", ".csv", [("good film " * 10, "positive")]))
    assert long.inputs_form == new.inputs_form  # cut to the longest that was searched
    with pytest.raises(ValueError, match=r"80 of the 100 texts in .* were trained on or chosen by \(row \d+\)"):
        data.new_samples(write(tmp_path / "new", ".csv", texts[:100]))
    with pytest.raises(ValueError, match=r"must hold classes of the table that was searched .* but has 'neutral'"):
        data.new_samples(write(tmp_path / "new", ".csv", [("tea is tea", "neutral")]))


def test_what_is_wrong_with_texts_is_said_in_a_line(tmp_path: Path, words: Any) -> None:
    file = write_csv(tmp_path / "texts.csv", 40)

    def refused(message: str, source: Path, **how: Any) -> None:
        with pytest.raises(ValueError, match=message) as error:
            Texts(source, **{"tokenizer": words, **how})
        assert "\n" not in str(error.value)

    refused("text must name a column of .*texts.csv, but there is no 'txt'; did you mean 'text'", file, text="txt")
    refused(
        "label must name a column of .*texts.csv, but there is no 'stars'; its columns are text, label",
        file,
        label="stars",
    )
    refused("texts must be a table or a folder, but there is none at .*none.csv", tmp_path / "none.csv")
    refused("tokenizer must be a tokenizer of Transformers, its name or its folder, but got 3", file, tokenizer=3)
    refused("a tokenizer must be in a folder, but there is no folder /no/where", file, tokenizer="/no/where")
    refused("must be a folder of save_pretrained with a tokenizer, but can't be loaded", file, tokenizer=tmp_path)
    refused("max_length must be at least 1, but got 0", file, max_length=0)
    refused("measured_length must be 1 to", file, measured_length=500)

    empty = write(tmp_path, ".tsv", [*rows(40), (" ", "negative")])
    refused("column 'text' of .*texts.tsv must hold a text in each row, but is empty in row 41", empty)
    numbers = tmp_path / "numbers.jsonl"
    numbers.write_text('{"text": "tea", "label": "a"}\n{"text": 3, "label": "b"}\n')
    refused(r"must hold a text in each row, but is 3 \(int\) in row 2", numbers)
    lines = write(tmp_path, ".jsonl", rows(40))
    lines.write_text(lines.read_text()[:-20])
    refused("line 40 of .*texts.jsonl must be an object of JSON, but is not: .*; the file seems to be cut short", lines)
    lines.write_text('{"text": "tea"}\n[1]\n')
    refused("line 2 of .*texts.jsonl must be an object of JSON, but is a list", lines)
    latin = tmp_path / "latin.csv"
    latin.write_bytes("text,label\ntée,a\n".encode("latin-1"))
    refused("must be encoded in utf-8, but is not: give encoding=", latin)
    refused(
        "each class must have texts in val, five different ones .* 'rare' has none",
        write(tmp_path, ".csv", [*rows(40), ("tea tea", "rare")]),
    )
    (tmp_path / "folder").mkdir()
    refused("folder must have a folder of .txt files for each class, but has no such file", tmp_path / "folder")


def test_words_that_stand_for_missing_numbers_elsewhere_are_texts(tmp_path: Path, words: Any) -> None:
    data = Texts(write(tmp_path, ".csv", [*rows(40), ("NA", "negative"), ("null", "positive")]), tokenizer=words)
    assert sum(len(split) for split in data.splits.values()) == 42


def test_a_network_without_a_place_for_tokens_or_positions_is_told(tmp_path: Path, words: Any) -> None:
    from transformers import BertForSequenceClassification

    data = Texts(write_csv(tmp_path / "texts.csv", 40), tokenizer=words)
    size = data.splits["train"].inputs["input_ids"].shape[1]  # type: ignore[call-overload]

    def fault(**changed: Any) -> Any:
        return data.network_fault(BertForSequenceClassification(bert_config(**changed)))

    assert fault() is None and data.network_fault(nn.Linear(2, 2)) is None
    assert fault(vocab_size=24)[0] == "belong to the tokenizer, which has 25 tokens, but has embeddings of 24"
    assert fault(vocab_size=30522)[0].endswith("which has 25 tokens, but has embeddings of 30,522")
    from transformers import RobertaConfig, RobertaForSequenceClassification

    padded_by_one = {**bert_config().to_dict(), "max_position_embeddings": size + 1, "pad_token_id": 1}
    roberta = RobertaForSequenceClassification(RobertaConfig(**padded_by_one))  # its first two rows are of no token
    assert str(data.network_fault(roberta)).startswith(f"('have a position for each token, but has {size - 1},")
    assert fault(max_position_embeddings=size - 1)[0] == (
        f"have a position for each token, but has {size - 1}, and texts have up to {size} tokens"
    )
