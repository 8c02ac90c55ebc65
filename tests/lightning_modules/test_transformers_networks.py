"""Networks of Transformers as they are: called with a batch, costed, identified, saved; features without padding."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from text_models import bert_config
from torch import Tensor, nn

from harness.core.content import tensors_digest
from harness.cost.counting import count_costs
from harness.networks.digest import answers_of, network_digest, weights_digest
from harness.training.tensor_file import cpu_state, load_state, save_tensors
from lightning_modules.batch import Batch, call, evaluating
from lightning_modules.data import PaddedDataModule, Split
from lightning_modules.features import probe_features
from lightning_modules.methods import METHODS

transformers = pytest.importorskip("transformers", reason="pip install 'kd-harness[text]'")

LENGTHS = torch.tensor([3, 6, 4, 6, 5, 2])


def inputs(lengths: Tensor = LENGTHS) -> dict[str, Tensor]:
    mask = (torch.arange(6) < lengths[:, None]).long()
    ids = torch.randint(5, 25, mask.shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids * mask, "attention_mask": mask}


def built(head: str, **changed: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, f"AutoModelFor{head}").from_config(bert_config(**changed))
    return model


HEADS = {
    "SequenceClassification": (6, 2),
    "TokenClassification": (6, 6, 2),
    "CausalLM": (6, 6, 25),
    "MaskedLM": (6, 6, 25),
}


@pytest.mark.parametrize("head", HEADS)
def test_a_network_of_transformers_is_called_saved_and_told_from_others(head: str, tmp_path: Path) -> None:
    network = built(head, is_decoder=head == "CausalLM")
    logits = call(network, inputs())
    assert isinstance(logits, Tensor) and logits.shape == HEADS[head]
    with evaluating(network), torch.no_grad():
        first = call(network, inputs())
        torch.testing.assert_close(first, call(network, inputs()), rtol=0, atol=0)
    digests = {
        network_digest(one, answers_of(one, [inputs()]))
        for one in (built(head, is_decoder=head == "CausalLM"), network)
    }
    assert len(digests) == 1
    save_tensors(cpu_state(network), tmp_path / "state.safetensors", {})
    state = load_file(tmp_path / "state.safetensors")
    other = built(head, is_decoder=head == "CausalLM")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    assert weights_digest(other) != weights_digest(network)
    load_state(other, state)
    assert weights_digest(other) == weights_digest(network)
    assert tensors_digest(cpu_state(other)) == tensors_digest(state)
    costs = count_costs(network.eval(), inputs())
    assert costs.parameters == sum(one.numel() for one in network.parameters())
    if head.endswith("LM"):  # the decoder's matrix is that of the embeddings: counted and stored once
        assert costs.size_mb < (4 * costs.parameters + 8 * 10_000) / 1e6
        assert network.get_output_embeddings().weight is network.get_input_embeddings().weight  # type: ignore[operator]


@pytest.mark.parametrize("length", [32, 512])
def test_macs_of_attention_are_those_of_a_count_by_hand(length: int) -> None:
    network = built("SequenceClassification", max_position_embeddings=512)
    some = {"input_ids": torch.full((1, length), 7), "attention_mask": torch.ones(1, length, dtype=torch.int64)}
    hidden, inner, layers = 32, 64, 2
    # Of a layer: query, key, value and output; scores and their sums of values; two of the feed-forward part.
    of_layer = 4 * length * hidden**2 + 2 * length**2 * hidden + 2 * length * hidden * inner
    of_head = hidden**2 + hidden * 2  # the pooler and the classifier, of the first token
    assert count_costs(network.eval(), some).macs == layers * of_layer + of_head


def padded_module(network: nn.Module, layer: str) -> PaddedDataModule:
    """The same samples in all splits, with the network's outputs as the teacher's."""
    split = Split(inputs(), torch.tensor([0, 1, 0, 1, 0, 1]))
    data = PaddedDataModule(train=split, val=split, test=split, batch_size=3, eval_batch_size=6)
    logits, features = probe_features(network, inputs(), [layer])
    data.attach({name: {"logits": logits, layer: features[layer]} for name in ("train", "val")})
    data.teacher_layers = (layer,)
    return data


WEIGHTS: dict[str, Any] = {
    "hint": {"hint_weight": 1.0},
    "relation": {"distance_weight": 1.0, "angle_weight": 1.0},
    "similarity_preserving": {"similarity_weight": 1.0},
    "probabilistic_transfer": {"probabilistic_weight": 1e4},
    "contrastive": {"contrastive_weight": 1.0, "contrastive_temperature": 0.1},
}


@pytest.mark.parametrize("method", WEIGHTS)
def test_a_method_of_features_sees_no_padding(method: str) -> None:
    """Neither how far a batch is padded changes its loss, nor what a layer gives at padding."""
    teacher, student = built("SequenceClassification"), built("SequenceClassification", hidden_size=16)
    layer = "bert.encoder.layer.0"
    data = padded_module(teacher, layer)
    torch.manual_seed(1)
    criterion = METHODS[method](student_layer=layer, teacher_layer=layer, **WEIGHTS[method])
    criterion.setup(student, data, epochs=1)

    def loss(places: slice, noise: float) -> float:
        ids = torch.tensor([0, 2, 5])  # of lengths 3, 4 and 2
        some = {name: value[ids, places] for name, value in inputs().items()}
        mask = some["attention_mask"].bool()
        logits, features = probe_features(student, some, [layer])
        ours = features[layer] + noise * ~mask[:, :, None]
        theirs = data.teacher_outputs["train"][layer][ids, places] - noise * ~mask[:, :, None]
        batch = Batch(ids, some, torch.tensor([0, 0, 1]), {"logits": logits, layer: theirs}, mask)
        criterion.begin_epoch(0) if method == "contrastive" else None
        return float(criterion.soft_loss(logits, batch, {layer: ours}).detach())

    given = loss(slice(4), 0.0)
    assert math.isclose(given, loss(slice(6), 0.0), rel_tol=1e-4)
    assert math.isclose(given, loss(slice(6), 5.0), rel_tol=1e-4)


def test_the_hint_is_the_mean_over_tokens() -> None:
    teacher = built("SequenceClassification")
    layer = "bert.encoder.layer.0"
    data = padded_module(teacher, layer)
    criterion = METHODS["hint"](student_layer=layer, teacher_layer=layer, hint_weight=1.0)
    criterion.setup(teacher, data, epochs=1)
    nn.init.eye_(criterion.regressor.weight), nn.init.zeros_(criterion.regressor.bias)
    mask = inputs()["attention_mask"].bool()
    theirs = data.teacher_outputs["train"][layer]
    batch = Batch(torch.arange(6), inputs(), torch.zeros(6).long(), {layer: theirs}, mask)
    ours = theirs + 2.0 * mask[:, :, None] + 100.0 * ~mask[:, :, None]
    torch.testing.assert_close(criterion.soft_loss(torch.zeros(6, 2), batch, {layer: ours}), torch.tensor(4.0))
