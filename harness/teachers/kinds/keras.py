"""A model of Keras or TensorFlow as the teacher: a ``.keras`` file, or the folder of a SavedModel."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness.core.errors import HarnessError, Unfit, one_line
from harness.teachers.black_box import Ground, missing_extra
from harness.teachers.model_file import ModelFile, refuse_shape

_SAVED_MODEL = "saved_model.pb"
_ENDPOINTS = ("serve", "serving_default")  # of keras' model.export, and of tf.saved_model.save
_CODE = ("Lambda", "__lambda__", "TFSMLayer")  # classes that bring code of their own with a file
_SAFE_MODULES = ("keras", "builtins")


def recognizes(path: Path) -> bool:
    """Return whether a path is a ``.keras`` file or the folder of a SavedModel."""
    return path.suffix == ".keras" or (path / _SAVED_MODEL).is_file()


def load(path: Path, names: tuple[str, ...]) -> KerasTeacher:
    """Return the model in a file or folder."""
    return KerasTeacher(path)


class KerasTeacher(ModelFile):
    """A model of Keras or TensorFlow that takes the data's inputs: one array, or several by their names.

    Pictures have their channels last there: ``inputs=lambda x: x.permute(0, 2, 3, 1).numpy()``.

    From a ``.keras`` file no code is run: Lambda layers, types that are not Keras' own and pickled arrays are refused.
    A SavedModel is a program of TensorFlow's operations, which may read and write files: take it from where you trust.
    See ``ModelFile`` for the arguments; ``output`` of a SavedModel may be an endpoint, too.
    """

    who: ClassVar[str] = "the Keras model that teaches"
    runtime: ClassVar[str] = "Keras"

    _model: Any = None
    _parameters = 0

    def costs(self) -> dict[str, float]:
        """Return the number of the model's parameters, and the size of its file or folder, MB."""
        files = [file for file in self._path.rglob("*") if file.is_file()] if self._path.is_dir() else [self._path]
        return {"parameters": self._parameters, "size_mb": sum(file.stat().st_size for file in files) / 1e6}

    def _open(self, ground: Ground) -> None:
        keras = _keras(self._path)
        try:
            if self._path.is_dir():
                self._model = _saved_model(keras, self._path)
            else:
                _refuse_code(self._path)
                self._model = keras.saving.load_model(self._path, compile=False, safe_mode=True)
        except HarnessError:
            raise
        except Exception as error:  # Keras and TensorFlow have many of their own
            raise HarnessError(
                f"the teacher {self._path} must be a model that Keras loads without running code, but "
                f"{one_line(error).rstrip('.')}."
            ) from error
        self._parameters = int(sum(np.prod(one.shape) for one in self._model.weights))

    def _run(self, given: Any) -> np.ndarray:
        self._check_shapes(given)
        found = self._model(given, training=False) if not self._path.is_dir() else self._model(given)
        if isinstance(found, dict | list | tuple):
            found = self._chosen(found)
        return np.asarray(found)

    def _check_shapes(self, given: Any) -> None:
        inputs = getattr(self._model, "inputs", None) or []
        arrays = list(given.values()) if isinstance(given, dict) else [given]
        if isinstance(given, dict) and len(inputs) > 1 and {one.name for one in inputs} != given.keys():
            raise Unfit(
                f"{self.who} takes {', '.join(one.name for one in inputs)}, but is given {', '.join(given)}",
                "let inputs= give a dict with a key for each of them",
            )
        if len(inputs) == len(arrays) == 1:
            wanted, shape = tuple(inputs[0].shape), tuple(arrays[0].shape)
            if len(wanted) != len(shape) or any(a not in (None, b) for a, b in zip(wanted[1:], shape[1:], strict=True)):
                raise refuse_shape(self.who, inputs[0].name, wanted, shape)

    def _chosen(self, found: Any) -> Any:
        """Return the output that is asked for, of a model that has several."""
        named = found if isinstance(found, dict) else {str(place): value for place, value in enumerate(found)}
        if self._output is None and len(named) == 1:
            return next(iter(named.values()))
        if self._output not in named:
            raise Unfit(f"{self.who} has several outputs: {', '.join(named)}", "name one by output=")
        return named[self._output]


def _keras(path: Path) -> Any:
    """Import Keras, with TensorFlow on one thread, as students are measured."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # or sums depend on the processor, and a page is printed
    with contextlib.suppress(ImportError):
        # Torch's builds for GPUs bring Triton, and import it when they count or compile. Imported after TensorFlow, it
        # ends the process with a segmentation fault (seen with tensorflow 2.21): both bring LLVM.
        import_module("triton")
    try:
        import keras
    except ImportError as error:
        raise missing_extra(str(error.name or "keras"), "keras", f"the teacher {path}") from error
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # another teacher has begun to use it
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
            tf.config.set_visible_devices([], "GPU")
    elif path.is_dir():
        raise HarnessError(
            f"the teacher {path} is a SavedModel, which only TensorFlow runs, but KERAS_BACKEND is "
            f"{keras.backend.backend()!r}; set it to 'tensorflow'."
        )
    return keras


def _saved_model(keras: Any, path: Path) -> Any:
    errors = []
    for endpoint in _ENDPOINTS:
        try:
            return keras.layers.TFSMLayer(str(path), call_endpoint=endpoint)
        except ValueError as error:
            errors.append(one_line(error))
    raise HarnessError(
        f"the SavedModel {path} must have an endpoint {' or '.join(_ENDPOINTS)}, but has none ({errors[0]}); "
        "model.export(folder) of Keras writes one."
    )


def _refuse_code(path: Path) -> None:
    """Refuse a file of Keras that brings code, or types that are not Keras' own.

    Raises:
        HarnessError: If it does.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            arrays = [name for name in archive.namelist() if name.endswith(".npz")]
            for name in arrays:
                with archive.open(name) as opened, np.load(opened, allow_pickle=False) as held:
                    for key in held.files:
                        held[key]  # raises ValueError for what is pickled
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise HarnessError(
            f"the teacher {path} must be a model that model.save('name.keras') wrote, of plain arrays, but can't be "
            f"read: {one_line(error).rstrip('.')}."
        ) from error
    for one in _objects(config):
        module, name = one.get("module"), str(one["class_name"])
        own = one.get("registered_name") if not module else None
        if name in _CODE:
            raise HarnessError(
                f"the teacher {path} must bring no code, but has a layer {name}, which does; build the model of Keras' "
                "own layers, or export it to ONNX."
            )
        if own or (module and str(module).split(".")[0] not in _SAFE_MODULES):
            raise HarnessError(
                f"the teacher {path} must be of Keras' own types alone, but has a {module or own}.{name}; export it "
                "to ONNX, or ask it by FunctionTeacher in teacher()."
            )


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every object that a configuration of Keras names, at any depth."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        for value in config.values():
            yield from _objects(value)
    elif isinstance(config, list):
        for value in config:
            yield from _objects(value)
