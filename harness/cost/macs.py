"""Multiply-accumulates (MACs) of a network: each product of tensors in one call, by a formula for its kind.

Fused kernels hide their products: an LSTM of oneDNN or cuDNN, scaled dot-product attention, the fast paths of
``nn.MultiheadAttention`` and ``nn.TransformerEncoderLayer``. A network is therefore counted on the plain paths, which
compute the same from matrix products that can be seen. What multiplies tensors and has no formula is named instead.
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness.core.errors import one_line
from lightning_modules.batch import Inputs, call

aten = torch.ops.aten


class Macs(NamedTuple):
    """The MACs of a call.

    Attributes:
        total: Multiply-accumulates of all operations with a formula.
        uncounted: Operations that multiply and have no formula; the total is valid only if there are none.
    """

    total: int
    uncounted: tuple[str, ...]


def macs_of(network: nn.Module, inputs: Inputs) -> Macs:
    """Count the multiply-accumulates of one call of a network.

    Convolutions, matrix products and attention count, masked or not; element-wise arithmetic (outer products too),
    norms, pooling, interpolation, bias and look-ups do not. A complex product counts as four real ones, and a fast
    Fourier transform of N values as 2.5 N log2 N (half of that for real ones), the convention of FFTW.

    Args:
        network: The network, in the mode that is counted.
        inputs: Inputs of a batch.

    Raises:
        Exception: What the network raises when it is called by itself.
    """
    counter, exits = _Counter(), _Exits()
    try:
        with _plain_paths(), exits, counter:
            call(network, inputs)
    except Exception as error:
        with torch.no_grad():
            call(network, inputs)  # an error of its own is no matter of counting
        counter.uncounted[f"a call that can't be followed ({type(error).__name__}: {one_line(error)})"] = None
    return Macs(counter.count, (*counter.uncounted, *exits.found))


def count_macs(network: nn.Module, inputs: Inputs) -> int | None:
    """Return the multiply-accumulates of one call of a network, or ``None`` where not all of it can be counted."""
    found = macs_of(network, inputs)
    return None if found.uncounted else found.total


@contextlib.contextmanager
def _plain_paths() -> Iterator[None]:
    """Disable gradients, compiled code, and fused kernels within the context."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of slower paths
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        yield


class _Counter(TorchDispatchMode):
    """Counts the products of dispatched operations, and names operations without a formula."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.uncounted: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind = getattr(func, "overloadpacket", func)
        if kind not in _FORMULAS and isinstance(func, torch._ops.OpOverload):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        output = func(*args, **kwargs)
        if kind in _FORMULAS:
            self.count += _FORMULAS[kind](args, output)
        elif _may_multiply(func):
            self.uncounted[str(kind)] = None
        return output


class _Exits(TorchFunctionMode):
    """Finds where values leave torch for NumPy or another library, which the dispatcher does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Whole numbers are lengths and indices, not what is multiplied.
        if func in _EXITS and args[0].is_floating_point():
            self.found[f"Tensor.{_EXITS[func]}"] = None
        return func(*args, **(kwargs or {}))


_EXITS = {getattr(Tensor, name): name for name in ("numpy", "__array__", "tolist", "__dlpack__")}


def _stored(matrix: Tensor) -> int:
    """Return how many values a matrix stores; only these are multiplied, where it is sparse."""
    if matrix.layout is torch.sparse_coo:
        return int(matrix.coalesce().values().numel())
    return matrix.values().numel() if matrix.layout in _COMPRESSED else matrix.numel()


_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def _product(one: Tensor, other: Tensor) -> int:
    """Return the MACs of a product of matrices, shapes (..., M, K) and (..., K, N), or (K,) for a vector."""
    if other.layout is not torch.strided and other.ndim > 1:
        terms = _stored(other) * (one.numel() // one.shape[-1])
    else:
        terms = _stored(one) * (other.shape[-1] if other.ndim > 1 else 1)
    return terms * (4 if one.is_complex() and other.is_complex() else 1)


def _convolution(args: Any, output: Tensor) -> int:
    """Return the MACs of a convolution, grouped or not: each output meets a kernel, or each input if transposed."""
    inputs, weight, transposed = args[0], args[1], args[6]
    return int((inputs if transposed else output).numel() * weight[0].numel())


def _attention(args: Any, output: Any) -> int:
    """Return the MACs of attention: queries with keys, and what comes of it with values; masked terms count too."""
    query, key, value = args[:3]
    rows = query.numel() // query.shape[-1]
    return int(rows * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


def _bilinear(args: Any, output: Tensor) -> int:
    """Return the MACs of ``bilinear``: x1 (N, I) with weights (O, I, J), and what comes of it with x2 (N, J)."""
    rows, weight = args[0].numel() // args[0].shape[-1], args[1]
    return int(rows * (weight.numel() + weight.shape[0] * weight.shape[2]))


def _fourier(values: Tensor, dims: Any, per_value: float) -> int:
    length = math.prod(values.shape[dim] for dim in dims)
    return round(per_value * values.numel() * math.log2(max(length, 1)))


def _of_matrices(first: int) -> Callable[[Any, Any], int]:
    return lambda args, output: _product(args[first], args[first + 1])


_FORMULAS: Mapping[Any, Callable[[Any, Any], int]] = {
    **dict.fromkeys([aten.mm, aten.bmm, aten.mv, aten.dot, aten.vdot, aten._int_mm, aten._scaled_mm], _of_matrices(0)),
    **dict.fromkeys([aten.addmm, aten.addmm_, aten._addmm_activation, aten._sparse_addmm], _of_matrices(1)),
    **dict.fromkeys([aten.baddbmm, aten.baddbmm_, aten.addbmm, aten.addbmm_, aten.addmv, aten.addmv_], _of_matrices(1)),
    aten._weight_int8pack_mm: lambda args, output: args[0].numel() * args[1].shape[0],
    **dict.fromkeys([aten.convolution, aten._convolution, aten.convolution_overrideable], _convolution),
    aten.conv_tbc: lambda args, output: output.numel() * args[1].numel() // args[1].shape[-1],
    **dict.fromkeys(
        [
            aten._scaled_dot_product_flash_attention,
            aten._scaled_dot_product_flash_attention_for_cpu,
            aten._scaled_dot_product_efficient_attention,
            aten._scaled_dot_product_cudnn_attention,
            aten._scaled_dot_product_fused_attention_overrideable,
            torch.ops.higher_order.flex_attention,
        ],
        _attention,
    ),
    aten._trilinear: _bilinear,
    # The matrix product of positions (x, y, 1) with a sample's (2, 3) parameters.
    aten.affine_grid_generator: lambda args, output: output.numel() * args[0].shape[-1],
    # Euclidean distances are sums of squares; those of many rows are computed as a matrix product.
    aten._euclidean_dist: lambda args, output: output.numel() * args[0].shape[-1],
    aten._cdist_forward: lambda args, output: output.numel() * args[0].shape[-1] if args[2] == 2 else 0,
    aten._pdist_forward: lambda args, output: output.numel() * args[0].shape[-1] if args[1:] in ((), (2,)) else 0,
    aten._fft_c2c: lambda args, output: _fourier(output, args[1], 2.5),
    aten._fft_r2c: lambda args, output: _fourier(args[0], args[1], 1.25),
    aten._fft_c2r: lambda args, output: _fourier(output, args[1], 1.25),
}
"""MACs of an operation, from its arguments and its output."""

# Where torch and torchvision name an operation, its name says whether it multiplies; elsewhere it says nothing.
_SPEAKING = frozenset(
    "aten prim prims _prims profiler cuda quantized _quantized onednn mkldnn mkl mkldnn_prepacked sparse quantization "
    "c10d _c10d_functional inductor rngprims torchvision image".split()
)
_MULTIPLIES = re.compile(
    r"[a-z\d]*(mm|gemm)|[a-z]*mv|v?dot|matmul|matrix|linear|bilinear|trilinear|q?linear|q?conv(olution)?(\d?d)?|rnn|lstm|"
    r"gru|attention|transformer|fft|cdist|pdist|cholesky|svd|qr|geqrf|orgqr|ormqr|solve|spsolve|lstsq|inverse|pinverse|"
    r"lu|det|slogdet|logdet"
)
_DOES_NOT = re.compile(
    r"(_?linalg_(vector_norm|cross|diagonal|check_errors|_powsum)|_thnn_fused_\w+|slice_inverse|\w*upsample\w*|\w*prepack(?!ed)\w*)"
)


def _may_multiply(func: Any) -> bool:
    """Return whether an operation without a formula may multiply tensors."""
    namespace, _, name = func.name().split(".")[0].rpartition("::")
    if namespace not in _SPEAKING:
        return True
    if _DOES_NOT.fullmatch(name):
        return False
    if name.lstrip("_").startswith("linalg_"):
        return True
    return any(_MULTIPLIES.fullmatch(word) for word in name.split("_"))
