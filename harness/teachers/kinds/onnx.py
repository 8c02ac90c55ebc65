"""An ONNX model as the teacher, run by ONNX Runtime on the CPU."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness.core.errors import HarnessError, Unfit, one_line
from harness.teachers.black_box import Ground, missing_extra
from harness.teachers.model_file import ModelFile, refuse_shape

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


def recognizes(path: Path) -> bool:
    """Return whether a file is an ONNX model."""
    return path.suffix == ".onnx"


def load(path: Path, names: tuple[str, ...]) -> OnnxTeacher:
    """Return the model in a file."""
    return OnnxTeacher(path)


class OnnxTeacher(ModelFile):
    """An ONNX model that takes the data's inputs: one array, or several by their names.

    Its latency is that of a call of ONNX Runtime on one thread, the conversion of inputs and answers included. Its
    parameters are the floating-point numbers that it holds. See ``ModelFile`` for the arguments.
    """

    who: ClassVar[str] = "the ONNX model that teaches"
    runtime: ClassVar[str] = "ONNX Runtime"
    answers_live: ClassVar[bool] = True

    _session: Any = None
    _size: tuple[int, float] = (0, 0.0)

    def costs(self) -> dict[str, float]:
        """Return the number of floating-point numbers in the model, and the size of its file, MB."""
        parameters, size_mb = self._size
        return {"parameters": parameters, "size_mb": size_mb} if parameters else {"size_mb": size_mb}

    def _open(self, ground: Ground) -> None:
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise missing_extra(str(error.name), "onnx", f"the teacher {self._path}") from error
        try:
            self._session = _session_of(onnxruntime, self._path)
            graph = onnx.load(self._path, load_external_data=False).graph
        except Exception as error:  # each library has many of its own
            raise HarnessError(
                f"the teacher {self._path} must be a model that ONNX Runtime runs, but {one_line(error).rstrip('.')}."
            ) from error
        files = [self._path, *self._path.parent.glob(f"{self._path.name}[._]data")]
        floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
        counted = sum(math.prod(one.dims) for one in graph.initializer if one.data_type in floats)
        self._size = counted, sum(file.stat().st_size for file in files) / 1e6
        self._output_name = self._chosen_output(ground)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file again, in another process."""
        import onnxruntime

        vars(self).update(state)
        self._session = _session_of(onnxruntime, self._path)

    def _chosen_output(self, ground: Ground) -> str:
        """Return the name of the output that is asked for: the one of shape (B, C), where several are."""
        outputs = self._session.get_outputs()
        names: list[str] = [one.name for one in outputs]
        if self._output is not None:
            if self._output not in names:
                raise Unfit(
                    f"{self.who} has no output {self._output!r}, but {', '.join(names)}", "name one of these by output="
                )
            return self._output
        rows = [one for one in outputs if one.type in _FLOATS and len(one.shape) == 2]
        fitting: list[str] = [
            one.name for one in rows if not isinstance(one.shape[1], int) or one.shape[1] == ground.classes
        ]
        if len(names) == 1:
            return names[0]
        if len(fitting) != 1:
            shapes = ", ".join(f"{one.name} {one.type} {one.shape}" for one in outputs)
            raise Unfit(
                f"{self.who} has several outputs ({shapes}), of which {len(fitting)} may be rows of {ground.classes} "
                "numbers",
                "name one by OnnxTeacher(file, output=...) in teacher()",
            )
        ground.note(f"{self._path.name} has several outputs ({', '.join(names)}): {fitting[0]} is taken")
        return fitting[0]

    def _run(self, given: Any) -> np.ndarray:
        feeds = self._feeds(given)
        sizes = {len(value) for value in feeds.values()}
        if len(sizes) != 1:
            raise Unfit(f"{self.who} must get inputs of one length, but gets {sorted(sizes)}", "mend inputs=")
        (size,) = sizes
        fixed = {one.shape[0] for one in self._session.get_inputs() if one.shape and isinstance(one.shape[0], int)}
        step = min(fixed, default=size) or 1
        found = []
        for first in range(0, size, step):
            part = {name: value[first : first + step] for name, value in feeds.items()}
            missing = step - min(step, size - first)
            if missing and fixed:  # a model of a fixed batch size gets a full one
                part = {name: np.concatenate([v, np.repeat(v[-1:], missing, axis=0)]) for name, v in part.items()}
            (answer,) = self._session.run([self._output_name], part)
            if not isinstance(answer, np.ndarray):
                raise Unfit(
                    f"{self.who} must answer with an array, but its {self._output_name!r} is a {type(answer).__name__}",
                    "export it without ZipMap, options={'zipmap': False}",
                )
            found.append(answer[: step - missing])
        return np.concatenate(found)

    def _feeds(self, given: Any) -> dict[str, np.ndarray]:
        """Return what each input of the model gets, in its type.

        Raises:
            Unfit: If names, types or shapes do not match.
        """
        wanted = {one.name: one for one in self._session.get_inputs()}
        named = given if isinstance(given, dict) else {next(iter(wanted)): given} if len(wanted) == 1 else {"": given}
        if named.keys() != wanted.keys():
            got = ", ".join(named) if isinstance(given, dict) else "one array"
            raise Unfit(
                f"{self.who} takes {', '.join(wanted)}, but is given {got}",
                "let inputs= give a dict with a key for each of them",
            )
        return {name: self._fed(wanted[name], np.asarray(value)) for name, value in named.items()}

    def _fed(self, wanted: Any, value: np.ndarray) -> np.ndarray:
        shape = wanted.shape
        pairs = zip(shape[1:], value.shape[1:], strict=False)
        if shape and (len(shape) != value.ndim or any(isinstance(a, int) and a != b for a, b in pairs)):
            raise refuse_shape(self.who, wanted.name, shape, value.shape)
        kind = _TYPES.get(wanted.type)
        if kind is None or (np.dtype(kind).kind in "iub" and value.dtype.kind not in "iub"):
            raise Unfit(
                f"{self.who} takes {wanted.name!r} as {wanted.type}, but is given {value.dtype}",
                "let inputs= give what it takes",
            )
        return np.ascontiguousarray(value, dtype=kind)


def _session_of(onnxruntime: Any, path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # as students are measured
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
