"""Models of Keras and TensorFlow teach, run by the real libraries; what brings code of its own is refused."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grounds import NAMES, clusters, ground, outputs

from harness.core.errors import HarnessError
from harness.teachers import KerasTeacher
from harness.teachers.black_box import teacher_in
from lightning_modules.data.tensors import Split, TensorDataModule

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
pytest.importorskip("tensorflow", reason="pip install 'kd-harness[keras]'")
import keras

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

DATA = clusters()


def dense(*, softmax: bool = False) -> Any:
    keras.utils.set_random_seed(0)
    made = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, activation="softmax" if softmax else None, name="last")]
    )
    made.layers[-1].set_weights([np.arange(12, dtype="float32").reshape(4, 3) / 10, np.ones(3, "float32")])
    return made


def expected(split: str) -> torch.Tensor:
    inputs = DATA.splits[split].inputs
    assert isinstance(inputs, torch.Tensor)
    return inputs @ (torch.arange(12).float().reshape(4, 3) / 10) + 1


def test_a_file_of_keras_teaches(tmp_path: Path) -> None:
    dense().save(tmp_path / "model.keras")
    given = teacher_in(tmp_path / "model.keras", NAMES)
    assert isinstance(given, KerasTeacher)
    for split, logits in outputs(given, ground(DATA)).items():
        torch.testing.assert_close(logits, expected(split))
    assert given.costs()["parameters"] == 15


def test_the_folder_of_a_saved_model_teaches(tmp_path: Path) -> None:
    dense(softmax=True).export(tmp_path / "saved", verbose=False)
    notes: list[str] = []
    given = teacher_in(tmp_path / "saved", NAMES)
    assert isinstance(given, KerasTeacher)
    found = outputs(given, ground(DATA, note=notes.append))["val"]
    torch.testing.assert_close(found, expected("val").log_softmax(1), rtol=1e-5, atol=1e-5)
    assert notes == ["saved answers with probabilities: their logarithms are stored as its logits"]
    assert given.costs()["parameters"] == 15


def test_channels_are_last_there(tmp_path: Path) -> None:
    made = keras.Sequential([keras.Input((5, 4, 2)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)])
    made.save(tmp_path / "model.keras")
    pictures = torch.randn(6, 2, 5, 4)
    data = TensorDataModule(**{name: Split(pictures, torch.arange(6) % 3) for name in ("train", "val", "test")})
    with pytest.raises(HarnessError, match=r"its channels are last: inputs=lambda x: x\.permute"):
        KerasTeacher(tmp_path / "model.keras").prepare(ground(data))
    given = KerasTeacher(tmp_path / "model.keras", inputs=lambda x: x.permute(0, 2, 3, 1).numpy())
    kernel, bias = (torch.from_numpy(one) for one in made.layers[-1].get_weights())
    torch.testing.assert_close(outputs(given, ground(data))["val"], pictures.mean((2, 3)) @ kernel + bias)


def test_other_weights_are_another_teacher(tmp_path: Path) -> None:
    digests = []
    for place in range(2):
        made = dense()
        made.layers[-1].set_weights([np.full((4, 3), place, "float32"), np.ones(3, "float32")])
        made.save(tmp_path / f"{place}.keras")
        given = KerasTeacher(tmp_path / f"{place}.keras")
        given.prepare(ground(DATA))
        digests.append(given.start(DATA).digest)
    assert digests[0] != digests[1]


@keras.saving.register_keras_serializable("own")  # type: ignore[untyped-decorator, unused-ignore]
class Doubled(keras.layers.Layer):  # type: ignore[misc, unused-ignore]
    def call(self, inputs: Any) -> Any:
        return inputs * 2


def test_code_in_a_file_is_refused(tmp_path: Path) -> None:
    with_lambda = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x[:, :3])])
    with_lambda.save(tmp_path / "lambda.keras")
    with pytest.raises(HarnessError, match="must bring no code, but has a layer Lambda"):
        KerasTeacher(tmp_path / "lambda.keras").prepare(ground(DATA))
    own = keras.Sequential([keras.Input((4,)), Doubled(), keras.layers.Dense(3)])
    own.save(tmp_path / "own.keras")
    with pytest.raises(HarnessError, match=r"must be of Keras' own types alone, but has a .*Doubled"):
        KerasTeacher(tmp_path / "own.keras").prepare(ground(DATA))


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    dense().save(tmp_path / "model.keras")
    np.savez(tmp_path / "state.npz", held=np.array([{"a": 1}], dtype=object))
    with zipfile.ZipFile(tmp_path / "model.keras", "a") as archive:
        archive.write(tmp_path / "state.npz", "model.weights.npz")
    with pytest.raises(HarnessError, match="of plain arrays, but can't be read"):
        KerasTeacher(tmp_path / "model.keras").prepare(ground(DATA))


def test_a_module_beside_keras_is_refused_by_its_name(tmp_path: Path) -> None:
    dense().save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(held["config.json"])
    config["config"]["layers"][1]["module"] = "os"
    held["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        for name, content in held.items():
            archive.writestr(name, content)
    with pytest.raises(HarnessError, match=r"but has a os\.Dense"):
        KerasTeacher(tmp_path / "model.keras").prepare(ground(DATA))


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.keras").write_text("nothing")
    with pytest.raises(HarnessError, match=r"must be a model that model.save"):
        KerasTeacher(tmp_path / "no.keras").prepare(ground(DATA))
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "saved_model.pb").write_text("nothing")
    with pytest.raises(HarnessError, match="must be a model that Keras loads"):
        KerasTeacher(tmp_path / "no").prepare(ground(DATA))
