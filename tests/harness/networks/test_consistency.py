"""Networks whose answer to a sample depends on the samples beside it, or on chance: a search warns of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from conftest import EXAMPLE, prepared_with_fresh_teacher
from torch import Tensor, nn

from harness.networks.consistency import find_effect_of_padding, find_inconsistency
from harness.reporting.notes import notes
from harness.reporting.result import collect

CENTRED = """

class Centred(nn.Module):
    def forward(self, inputs):
        return inputs - inputs.mean(0)
"""


class Centred(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - inputs.mean(0)


class Noisy(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.randn(1)


class Squeezed(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.squeeze()


def test_what_a_batch_or_chance_has_a_say_in_is_said_with_what_to_do() -> None:
    inputs = torch.arange(8.0).reshape(4, 2)
    assert find_inconsistency(nn.Identity(), inputs) is None
    fault = find_inconsistency(Centred(), inputs)  # alone, a sample is its own mean: 0, where -3 to 3 were
    assert fault is not None and fault.found == (
        "a sample alone has logits 100.0% of the largest apart from its own in a batch of 4"
    )
    assert "a mean over dimension 0" in fault.remedy
    fault = find_inconsistency(Noisy(), inputs)
    assert fault is not None and fault.found.startswith("the same batch asked twice has logits ")
    fault = find_inconsistency(Squeezed(), {"inputs": inputs})
    assert fault is not None and fault.found == "4 samples asked one by one have logits of shape (8,), not (4, 2)"


class Mean(nn.Module):
    def __init__(self, *, is_masked: bool) -> None:
        super().__init__()
        self.is_masked = is_masked

    def forward(self, values: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask if self.is_masked else torch.ones_like(attention_mask)
        return (values * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)


def test_a_network_that_takes_padding_for_a_part_of_the_sample_is_told() -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    padded = {"values": torch.ones(1, 5, 2) * mask.unsqueeze(2), "attention_mask": mask}
    short = {name: value[:, :3] for name, value in padded.items()}
    assert find_effect_of_padding(Mean(is_masked=True), (short, padded)) is None
    assert find_effect_of_padding(Mean(is_masked=False), None) is None
    fault = find_effect_of_padding(Mean(is_masked=False), (short, padded))
    assert fault is not None and fault.found.startswith("a sample has logits 40.0% of the largest apart where it is")


@pytest.mark.parametrize(("network", "who"), [("perceptron(256)", "the teacher"), ("perceptron(width)", "a student")])
def test_a_search_warns_of_either_in_the_doctor_s_words(
    network: str, who: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cancer.py"
    file.write_text(EXAMPLE.replace(f"return {network}\n", f"return nn.Sequential(Centred(), {network})\n") + CENTRED)
    study = prepared_with_fresh_teacher(file)
    apart = r"a sample alone has logits \d+\.\d% of the largest apart from its own in a batch of 16"
    said = f"{who} answers inconsistently: {apart}"
    output = capsys.readouterr().out
    (found,) = re.findall(rf"^warning   ({said}); look: \S+ -m harness doctor --space ", output, re.MULTILINE)
    assert output.count("answers inconsistently") == 1 and f"Warning: {found}." in notes(collect(study))
