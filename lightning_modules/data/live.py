"""Ask a frozen teacher about each batch, as it is shown to the student."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.batch import Inputs, call
from lightning_modules.features import capture_features


class LiveTeacher:
    """Gives the outputs of one teacher, or the mean of several, for a batch (Beyer et al. 2022, arXiv:2106.05237).

    It is no module: so no optimizer, checkpoint or train mode of a student reaches it.

    Args:
        networks: The teachers, on the device of the data, in eval mode.
        average: Returns the output of an ensemble for those of its members.

    Raises:
        ValueError: If a part of a teacher is in train mode.
    """

    def __init__(self, networks: Sequence[nn.Module], average: Callable[[Sequence[Tensor]], Tensor]) -> None:
        self._networks = tuple(networks)
        self._average = average
        self._check_mode()

    def __call__(self, inputs: Inputs, layers: Sequence[str] = ()) -> dict[str, Tensor]:
        """Return the teacher's outputs by name: ``"logits"``, and those of some layers of a single teacher.

        Args:
            inputs: Inputs of a batch, as the student sees them.
            layers: Names of layers.

        Raises:
            ValueError: If there is no layer of a name, or a call puts a part of the teacher in train mode.
        """
        with torch.inference_mode(), capture_features(self._networks[0], layers) as found:
            logits = [call(network, inputs) for network in self._networks]
            found["logits"] = logits[0] if len(logits) == 1 else self._average(logits)
        self._check_mode()
        # What is trained on is no inference tensor, and float32, as stored outputs are.
        return {name: values.clone().float() for name, values in found.items()}

    def _check_mode(self) -> None:
        for network in self._networks:
            for name, part in network.named_modules():
                if part.training:
                    where = f"its part {name!r}" if name else "it"
                    raise ValueError(
                        f"a teacher that is asked live must be in eval mode, but {where} is in train mode: let its "
                        "train(False) reach every part, and call train() nowhere in a forward."
                    )
