"""Language models from folders and by name, their heads, and small networks of texts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_models import bert_config, tokenizer
from torch import Tensor, nn

from lightning_modules.data.tokenizing import loaded
from lightning_modules.language_models import BagOfTokens, TokenConvNet, small_bert, text_classifier

transformers = pytest.importorskip("transformers", reason="pip install 'kd-harness[text]'")


def saved(folder: Path, kind: str = "BertModel", **changed: Any) -> tuple[str, Any]:
    """A folder of save_pretrained, in shards, with its tokenizer; and its network."""
    torch.manual_seed(0)
    network = getattr(transformers, kind)(bert_config(**changed)).eval()
    network.save_pretrained(folder, max_shard_size="20KB")
    tokenizer().save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return str(folder), network


def inputs() -> dict[str, Tensor]:
    return {"input_ids": torch.tensor([[2, 7, 9, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "BertForSequenceClassification"])
def test_a_head_of_other_classes_is_fresh_and_the_rest_as_it_was(kind: str, tmp_path: Path) -> None:
    folder, network = saved(tmp_path, kind)
    found = text_classifier(folder, classes=["a", "b", "c"])
    assert found(**inputs()).logits.shape == (1, 3) and all(one.requires_grad for one in found.parameters())
    assert all(part.training for part in found.modules())  # dropout, above all
    body = network if kind == "BertModel" else network.bert
    for name, value in body.state_dict().items():
        if kind == "BertModel" or "pooler" not in name:
            assert torch.equal(found.bert.state_dict()[name], value)


def test_a_network_that_has_the_classes_is_frozen_and_its_logits_are_in_their_order(tmp_path: Path) -> None:
    names = {0: "POSITIVE", 1: "Neutral", 2: "negative"}
    folder, network = saved(tmp_path, "BertForSequenceClassification", num_labels=3, id2label=names)
    found = text_classifier(folder, classes=["negative", "neutral", "positive"]).eval()
    assert not any(one.requires_grad for one in found.parameters())
    torch.testing.assert_close(found(**inputs()).logits, network(**inputs()).logits[:, [2, 1, 0]])
    unnamed, network = saved(tmp_path / "unnamed", "BertForSequenceClassification", num_labels=3)
    as_it_is = text_classifier(unnamed, classes=["0", "1", "2"]).eval()
    torch.testing.assert_close(as_it_is(**inputs()).logits, network(**inputs()).logits)


@pytest.mark.parametrize("names", [None, {0: "entailment", 1: "neutral", 2: "contradiction"}])
def test_a_head_of_as_many_other_classes_is_fresh_too(names: dict[int, str] | None, tmp_path: Path) -> None:
    named = {} if names is None else {"id2label": names}
    folder, network = saved(tmp_path, "BertForSequenceClassification", num_labels=3, **named)
    found = text_classifier(folder, classes=["bad", "good", "so so"])
    assert all(one.requires_grad for one in found.parameters())
    assert not torch.equal(found.classifier.weight, network.classifier.weight)
    body = found.bert.state_dict()
    assert all(torch.equal(body[name], value) for name, value in network.bert.state_dict().items())


def test_what_is_no_language_model_is_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = saved(tmp_path / "cut")
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())["weight_map"]
    name = "encoder.layer.0.attention.self.query.weight"
    shard = tmp_path / "cut" / index[name]
    save_file({key: value for key, value in load_file(shard).items() if key != name}, shard, {"format": "pt"})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for given, message in (
        (folder, f"must hold the weights of a BertForSequenceClassification, but has no 'bert.{name}'"),
        (str(tmp_path), "must be a folder of save_pretrained with a model, but can't be loaded"),
        ("/no/where", "a model must be in a folder, but there is no folder /no/where"),
        (
            "nobody/nothing",
            "the model nobody/nothing is neither a folder, nor in the cache, nor to be had from the netw",
        ),
    ):
        with pytest.raises(ValueError, match=message) as error:
            text_classifier(given, classes=["a", "b"])
        assert "\n" not in str(error.value)


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for call in (lambda: text_classifier("a", classes=["a", "b"]), lambda: loaded("a")):
        with pytest.raises(ImportError, match=r"need Transformers: pip install 'kd-harness\[text\]'"):
            call()


def test_a_small_bert_has_the_vocabulary_of_another_and_narrow_embeddings(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    found = small_bert(like=folder, classes=3, layers=1, hidden=16, heads=2, embedding=4, length=32)
    assert found(**inputs()).logits.shape == (1, 3)
    assert found.get_input_embeddings().weight.shape == (25, 4)  # type: ignore[operator]
    with pytest.raises(ValueError, match="hidden must be a multiple of heads, but got hidden=16 and heads=3"):
        small_bert(like=folder, classes=3, layers=1, hidden=16, heads=3)


@pytest.mark.parametrize(
    "network",
    [
        BagOfTokens(vocabulary=25, classes=3, embedding=4),
        TokenConvNet(vocabulary=25, classes=3, embedding=4, channels=5),
    ],
)
def test_a_small_network_answers_alike_however_far_a_text_is_padded(network: nn.Module) -> None:
    padded = {name: torch.cat([value, value.new_zeros(1, 5)], 1) for name, value in inputs().items()}
    torch.testing.assert_close(network(**padded), network(**inputs()))
    other = {**padded, "input_ids": padded["input_ids"].where(padded["attention_mask"] == 1, 11)}
    torch.testing.assert_close(network(**other), network(**inputs()))


def test_a_bag_of_tokens_is_a_linear_layer_of_their_mean() -> None:
    network = BagOfTokens(vocabulary=25, classes=3, embedding=4)
    mean = network.embedding.weight[[2, 7, 9, 3]].mean(0)
    torch.testing.assert_close(network(**inputs())[0], network.classifier(mean))
