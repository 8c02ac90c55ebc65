"""Start weights by name: layers evenly spaced, tensors of files, and what can't be matched is said or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.initial import (
    Origins,
    Started,
    copy_from_teacher,
    copy_named,
    evenly_spaced,
    match,
    start_from,
    state_of,
)


class Stack(nn.Module):
    """A network with numbered layers, each of which holds its own number."""

    def __init__(self, layers: int, offset: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Module()
        every = [nn.Linear(2, 2) for _ in range(layers)]
        self.inner.layers = nn.ModuleList(every)
        for number, layer in enumerate(every):
            nn.init.constant_(layer.weight, number + offset)


def sizes(*numbers: int, what: str = "weight") -> dict[str, Tensor]:
    return {f"layers.{number}.{what}": torch.zeros(2) for number in numbers}


def test_layers_are_evenly_spaced_with_the_first_and_the_last_as_distilbert_takes_them() -> None:
    assert evenly_spaced(6, 12) == [0, 2, 4, 7, 9, 11]  # of Hugging Face's extract_distilbert.py
    assert evenly_spaced(1, 12) == [0] and evenly_spaced(2, 12) == [0, 11] and evenly_spaced(3, 3) == [0, 1, 2]
    assert evenly_spaced(3, 12) == [0, 6, 11]  # the middle is 5.5


def test_a_student_with_fewer_layers_takes_the_first_the_last_and_those_between() -> None:
    student = Stack(3, offset=100)
    started = copy_from_teacher(student, Stack(5))
    values = [float(state_of(student)[f"inner.layers.{number}.weight"][0, 0]) for number in range(3)]
    assert values == [0, 2, 4]
    assert started.layers == {"inner.layers": ("0", "2", "4")} and started.unmatched == ()
    assert str(started) == "18 of 18 parameters, 6 of 6 tensors; inner.layers from the teacher's 0, 2, 4"


def test_a_student_with_more_layers_takes_them_in_their_order_and_draws_the_rest() -> None:
    found = match(sizes(0, 1, 2), sizes(0, 1))
    assert dict(found.names) == {"layers.0.weight": "layers.0.weight", "layers.1.weight": "layers.1.weight"}
    assert dict(found.fewer) == {}


def test_layers_of_a_sequential_are_told_apart_by_what_they_hold() -> None:
    def network(convolutions: int) -> nn.Sequential:
        parts = [(nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2), nn.ReLU()) for _ in range(convolutions)]
        return nn.Sequential(*(part for each in parts for part in each), nn.Flatten(), nn.Linear(4, 2))

    names = match(network(2).state_dict(), network(3).state_dict()).names
    assert {names[f"{number}.weight"] for number in (0, 3)} == {"0.weight", "6.weight"}
    assert {names[f"{number}.running_mean"] for number in (1, 4)} == {"1.running_mean", "7.running_mean"}
    assert names["7.weight"] == "10.weight"  # the linear layer


def test_stacks_within_stacks_are_mapped_each_by_itself() -> None:
    student = {"stages.0.blocks.0.w": 0, "stages.1.blocks.0.w": 0}
    teacher = {f"stages.{stage}.blocks.{block}.w": 0 for stage in range(3) for block in range(2)}
    names = match(student, teacher).names
    assert names == {"stages.0.blocks.0.w": "stages.0.blocks.0.w", "stages.1.blocks.0.w": "stages.2.blocks.0.w"}


def test_a_network_within_a_module_of_one_name_is_looked_into() -> None:
    names = match({"net.a.w": 0, "net.b.w": 0, "head.w": 0}, {"a.w": 0, "b.w": 0}).names
    assert names == {"net.a.w": "a.w", "net.b.w": "b.w"}


def test_tensors_of_another_shape_keep_their_fresh_weights_and_are_named() -> None:
    student, teacher = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 2))
    before = student[0].weight.clone()
    started = copy_from_teacher(student, teacher)
    assert started == Started(1, 4, 2, 17, {}, ("0.weight", "0.bias", "1.weight"))
    assert torch.equal(student[1].bias, teacher[1].bias) and torch.equal(student[0].weight, before)
    assert student[1].bias.data_ptr() != teacher[1].bias.data_ptr()


def test_a_student_of_other_names_can_not_start_from_its_teacher() -> None:
    student = nn.ModuleDict({"body": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"same name and shape, but none of body\.weight, "):
        copy_from_teacher(student, nn.ModuleDict({"trunk": nn.Linear(3, 3)}))


def test_a_file_gives_tensors_by_name_and_what_it_lacks_is_drawn() -> None:
    student = nn.Linear(2, 3)
    before = student.bias.clone()
    started = start_from(student, "w.safetensors", Origins(files={"w.safetensors": {"weight": torch.ones(3, 2)}}), 0)  # type: ignore[arg-type]
    assert torch.equal(student.weight, torch.ones(3, 2)) and torch.equal(student.bias, before)
    assert (started.numbers, started.of_numbers, started.unmatched) == (6, 9, ("bias",))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"wieght": torch.ones(3, 2), "b": torch.ones(1)}, "w.st must have the student's names, but 'wieght' and 1 mo"),
        ({"weight": torch.ones(2, 2)}, r"the student's shapes, but 'weight' is \[2, 2\], and the student's \[3, 2\]"),
        ({}, "must name tensors of the student, but it holds none"),
    ],
)
def test_a_file_of_another_network_is_refused(tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        copy_named(nn.Linear(2, 3), tensors, "w.st")


def test_from_scratch_nothing_is_copied() -> None:
    student = nn.Linear(2, 3)
    before = student.weight.clone()
    assert start_from(student, "scratch", Origins(), torch.zeros(1, 2)).tensors == 0
    assert torch.equal(student.weight, before)
