"""Tiny tokenizers and language models with random weights, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = "good fine great nice bad poor awful sad the a film day was is not very it so tea rain".split()


def tokenizer() -> Any:
    """A tokenizer of the words above, with BERT's special tokens: ``[CLS] words [SEP]``."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=32, **names)


def bert_config(**changed: Any) -> Any:
    """A BERT of two layers, 32 wide, for the tokenizer above."""
    from transformers import BertConfig

    usual = {
        "vocab_size": 5 + len(WORDS),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
        "num_labels": 2,
    }
    return BertConfig(**{**usual, **changed})


def rows(count: int) -> list[tuple[str, str]]:
    """Texts of various lengths with their labels, all different: of a good word or a bad one, among others."""
    import random

    draws = random.Random(0)
    found: dict[str, str] = {}
    while len(found) < count:
        label = ("negative", "positive")[len(found) % 2]
        mood = WORDS[draws.randrange(4) + (0 if label == "positive" else 4)]
        others = [draws.choice(WORDS[8:]) for _ in range(draws.randint(2, 14))]
        found[" ".join([*others, mood, *others[:1]])] = label
    return list(found.items())


def write_csv(file: Path, count: int) -> Path:
    """Write a table with columns ``text`` and ``label``."""
    lines = ["text,label", *(f"{text},{label}" for text, label in rows(count))]
    file.write_text("\n".join(lines) + "\n")
    return file


def write_tweets(folder: Path) -> Path:
    """Write the packages of the space of tweets: 300 tweets and one twice, and a BERT with random weights."""
    from transformers import BertModel

    from search_spaces.tweets import MODEL, TABLE, Tweets

    BertModel(bert_config(max_position_embeddings=64)).save_pretrained(folder / MODEL)
    tokenizer().save_pretrained(folder / MODEL)
    (folder / TABLE).parent.mkdir(parents=True)
    lines = [f"{Tweets.class_names[place % 3]},0.9,{text} caf\xe9" for place, (text, _) in enumerate(rows(300))]
    table = "\n".join(["sentiment,confidence,text", *lines, lines[0]])
    (folder / TABLE).write_bytes(table.encode("latin-1"))
    return folder
