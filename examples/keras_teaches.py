"""A Keras CNN teaches PyTorch students, on scikit-learn's handwritten digits (pip install 'tensorflow>=2.19').

python examples/keras_teaches.py digits.keras                     # trains the CNN, as you may have done long ago
python search.py --space examples/keras_teaches.py --trials 20 --study keras

Keras has the channels of a picture last, PyTorch first: ``inputs=`` turns the pictures for the teacher.
"""

import sys
from dataclasses import replace
from typing import Any

import torch

from harness.teachers import KerasTeacher
from lightning_modules.data.embedded import digits
from search_spaces.digits import SPACE as DIGITS
from search_spaces.digits import Digits


def channels_last(pictures: torch.Tensor) -> Any:
    """Return pictures as Keras takes them."""
    return pictures.permute(0, 2, 3, 1).numpy()


class FromKeras(Digits):
    """The digits of the default space and its students, with another teacher."""

    def teacher(self) -> KerasTeacher:
        return KerasTeacher("digits.keras", inputs=channels_last)


SPACE = replace(DIGITS, task=FromKeras())

if __name__ == "__main__":
    import keras

    train = digits(batch_size=32).splits["train"]
    assert isinstance(train.inputs, torch.Tensor)
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(channels_last(train.inputs), train.labels.numpy(), epochs=20, batch_size=32, verbose=0)
    network.save(sys.argv[1])
