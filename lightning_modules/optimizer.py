"""AdamW at what its arithmetic costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class _Held:
    """The tensors of an optimizer, gathered once; ``of`` is the state that holds them, which loading replaces."""

    of: Any
    parameters: list[Tensor]
    averages: list[Tensor]
    squares: list[Tensor]
    step: Tensor


class AdamW(torch.optim.AdamW):
    """PyTorch's fused AdamW: the same kernel, the same bits and the same state, but that its counts of steps are one.

    Of the time of PyTorch's own step on a small network, the kernel takes a tenth: at each step it gathers and groups
    what it has gathered before, opens a record for a profiler, and looks for a GPU that may be capturing a graph (by
    NVML, as Lightning has it, which is searched for anew each time where there is none). All of it is an eighth of a
    small student's step. So PyTorch takes the first step, and makes the state; from then on, where one group of dense
    parameters is on the CPU and each has a gradient, its kernel is called at once, without the hooks of a step.

    State that is taken from it in memory is for another of its kind: PyTorch's own would add to the one count of steps
    for each parameter.

    Args:
        parameters: What it optimizes.
        lr: Learning rate.
        weight_decay: Decoupled weight decay.
    """

    _held: _Held | None = None

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient."""
        if closure is None and self._held is not None and self._held.of is self.state:
            gradients = [parameter.grad for parameter in self._held.parameters]
            if all(gradient is not None for gradient in gradients):
                self._step(self._held, gradients)  # type: ignore[arg-type]
                return None
        self._share_no_steps()
        answer = super().step(closure)
        self._held = self._gathered()
        return answer

    # PyTorch wraps what bears no such mark in its hooks and a profiler's record, at a tenth of a small student's step.
    step.hooked = True  # type: ignore[attr-defined]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        if self._held is None or not set_to_none:
            super().zero_grad(set_to_none)
            return
        for parameter in self._held.parameters:
            parameter.grad = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Optimize more parameters."""
        super().add_param_group(param_group)
        self._held = None

    def _share_no_steps(self) -> None:
        """Give each parameter a count of its own, for PyTorch adds 1 to that of each."""
        seen: set[int] = set()
        for state in self.state.values():
            if id(state["step"]) in seen:
                state["step"] = state["step"].clone()
            seen.add(id(state["step"]))

    def _step(self, held: _Held, gradients: list[Tensor]) -> None:
        (group,) = self.param_groups
        beta1, beta2 = group["betas"]
        held.step.add_(1)
        torch._fused_adamw_(
            held.parameters,
            gradients,
            held.averages,
            held.squares,
            [],
            [held.step] * len(gradients),
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def _accelerator_graph_capture_health_check(self) -> None:
        if self.param_groups[0]["params"][0].device.type != "cpu":
            super()._accelerator_graph_capture_health_check()

    def _gathered(self) -> _Held | None:
        """The tensors of all parameters, if the kernel can be called with them at once; they share a count of steps."""
        if len(self.param_groups) != 1:
            return None
        parameters = self.param_groups[0]["params"]
        if any(parameter.device.type != "cpu" or parameter not in self.state for parameter in parameters):
            return None
        states = [self.state[parameter] for parameter in parameters]
        alike = {parameter.dtype for parameter in parameters}, {float(state["step"]) for state in states}
        if any(len(values) != 1 for values in alike):
            return None
        for state in states:
            state["step"] = states[0]["step"]
        averages, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        return _Held(self.state, parameters, averages, squares, states[0]["step"])
