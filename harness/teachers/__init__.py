"""Teachers: trained or loaded, single or as an ensemble, and what they answer on each sample, stored once.

The classes of ``harness.teachers.kinds`` can be imported from here: ``from harness.teachers import OnnxTeacher``. They
are found when they are asked for, so that the command line imports nothing heavy with this package. So is ``TopK``, the
form in which a task may have its teacher's outputs stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.teachers.kinds.function import FunctionTeacher as FunctionTeacher
    from harness.teachers.kinds.keras import KerasTeacher as KerasTeacher
    from harness.teachers.kinds.onnx import OnnxTeacher as OnnxTeacher
    from harness.teachers.kinds.sklearn import SklearnTeacher as SklearnTeacher
    from harness.teachers.kinds.stored import StoredOutputs as StoredOutputs
    from lightning_modules.top_k import TopK as TopK


def __getattr__(name: str) -> Any:
    """Return a class of one of the kinds by its name."""
    if name == "TopK":
        from lightning_modules.top_k import TopK

        return TopK
    if name[0].isupper():  # a class; a submodule is looked up here too
        from harness.core.plugins import modules_of

        for module in modules_of("harness.teachers.kinds"):
            found = getattr(module, name, None)
            if getattr(found, "__module__", None) == module.__name__:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
