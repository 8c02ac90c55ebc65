"""Memory that two networks share: training one would change the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from harness.core.errors import Unfit
from lightning_modules.batch import Inputs, call

_REMEDY = (
    "make it inside of student(), or put copy.deepcopy(..) of it there; what is shared must be frozen: "
    "requires_grad_(False), and in eval mode where it has a BatchNorm"
)


def check_apart(name: str, first: nn.Module, second: nn.Module, inputs: Inputs) -> None:
    """Check that two students of one architecture share no tensor that training changes.

    Frozen tensors may be shared, as those of a backbone that is loaded once.

    Args:
        name: Their name in messages.
        first: One of them, on the CPU.
        second: The other one, on the CPU.
        inputs: Inputs of a batch: a call with them changes buffers.

    Raises:
        Unfit: If they share one.
    """
    shared = _shared(first, second)
    if not shared:
        return
    changing = [key for key, value in shared.items() if value.requires_grad] or _moved_by_training(
        second, shared, inputs
    )
    if changing:
        part = _part_of(first, second, changing[0])
        raise Unfit(
            f"{name} must share nothing that is trained with other students, but {part} "
            "at each call of student(), made outside of it: weights would go from trial to trial",
            _REMEDY,
        )


def check_apart_from_teacher(name: str, student: nn.Module, teacher: nn.Module) -> None:
    """Check that a student shares no tensor with the teacher that is trained in either.

    Raises:
        Unfit: If it shares one.
    """
    places = {_place(value): value.requires_grad for _, value in _tensors(teacher)}
    for key, value in _tensors(student):
        if _place(value) in places and (value.requires_grad or places[_place(value)]):
            raise Unfit(
                f"{name} must share nothing that is trained with the teacher, but its {key!r} is the teacher's own",
                "put copy.deepcopy(..) of it into student()",
            )


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers with memory by name, without sparse ones, which have several parts."""
    for key, value in (*network.named_parameters(), *network.named_buffers()):
        if value.numel() and not value.is_meta and value.layout is torch.strided:
            yield key, value


def _place(value: Tensor) -> int:
    """Return the address of a tensor's storage, which is the same for all views of one tensor."""
    return value.untyped_storage().data_ptr()


def _shared(first: nn.Module, second: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of ``second`` that share memory with ``first``, by name."""
    places = {_place(value) for _, value in _tensors(first)}
    return {key: value for key, value in _tensors(second) if _place(value) in places}


def _moved_by_training(network: nn.Module, shared: dict[str, Tensor], inputs: Inputs) -> list[str]:
    """Return names of the shared tensors that a call in training mode changes, such as a BatchNorm's statistics."""
    before = {key: value.detach().clone() for key, value in shared.items()}
    with torch.no_grad():
        call(network, _on_cpu(inputs))
    moved = [key for key, value in shared.items() if not torch.equal(value, before[key])]
    with torch.no_grad():
        for key in moved:
            shared[key].copy_(before[key])
    return moved


def _on_cpu(inputs: Inputs) -> Inputs:
    return {key: value.cpu() for key, value in inputs.items()} if isinstance(inputs, dict) else inputs.cpu()


def _part_of(first: nn.Module, second: nn.Module, key: str) -> str:
    """Name the outermost shared module that holds a tensor, or the tensor itself."""
    if first is second:
        return "the whole network is the same one"
    modules = {id(module) for module in first.modules()}
    for name, module in second.named_modules():
        if name and key.startswith(f"{name}.") and id(module) in modules:
            return f"its layer {name!r} ({type(module).__name__}) is the same one"
    return f"its {key!r} has the same memory"
