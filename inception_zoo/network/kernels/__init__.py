"""CPU kernels for training: batch normalization with ReLU, and pooling, over channels_last feature maps in fp32 and bf16.

`kernels.cpp` is compiled at first use, for this machine's processor, into the user's cache folder: about two seconds, once.
Without a C++ compiler, or with INCEPTION_ZOO_KERNELS=0, `ready` returns False and PyTorch's operators compute the same.
"""

import ctypes
import hashlib
import logging
import os
import platform
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inception_zoo.errors import ZooError
from inception_zoo.system.atomic_files import whole_file
from inception_zoo.system.programs import find_program, run_program

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-std=c++17", "-shared", "-fPIC", "-fopenmp")
SWITCH = "INCEPTION_ZOO_KERNELS"
DTYPES = (torch.float32, torch.bfloat16)
Axis = tuple[int, int, int, int, int]  # input, output, kernel, stride, padding


def ready(maps: Tensor) -> bool:
    """Return True if the kernels support the device and the dtype of `maps` (N, C, H, W), and are compiled."""
    usual = maps.device.type == "cpu" and maps.dtype in DTYPES and maps.dim() == 4 and maps.numel() > 0
    return usual and library() is not None


def in_one_call(dtype: torch.dtype) -> bool:
    """Return True if oneDNN can compute convolution, sum and ReLU in one call in `dtype` on this CPU; not all support bf16."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def convolve_and_add(x: Tensor, other: Tensor, weight: Tensor, bias: Tensor | None, place: Any, relu: bool) -> Tensor:
    """Return ``relu(conv(x) + other)``, computed in one call of oneDNN.

    Args:
        x: Feature maps (N, C, H, W).
        other: The summand (N, K, H', W').
        weight: Weight of the convolution (K, C, kh, kw).
        bias: Bias of the convolution (K).
        place: Padding, stride, dilation and groups of the convolution.
        relu: Apply ReLU to the sum.

    Returns:
        Feature maps (N, K, H', W').
    """
    binary, then = torch.ops.mkldnn._convolution_pointwise.binary, "relu" if relu else None
    return binary(x, other, weight, bias, *place, "add", 1.0, then, [], None)


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels; None without a compiler, if compilation fails, or if they are switched off."""
    if os.environ.get(SWITCH) == "0" or platform.system() != "Linux":
        return None
    compiler = find_compiler()
    if compiler is None:
        log.info("no C++ compiler found: training uses PyTorch's operators, which are slower on CPUs")
        return None
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inception_zoo"
        file = folder / f"kernels-{_fingerprint(compiler)}.so"
        if not file.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with whole_file(file) as temporary:
                run_program([compiler, *FLAGS, SOURCE, "-o", temporary])
        return ctypes.CDLL(str(file))
    except (OSError, RuntimeError, ZooError, subprocess.CalledProcessError) as error:  # RuntimeError: no home folder
        words = (error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)).strip().splitlines()
        why = words[0] if words else "?"
        log.warning("the CPU kernels cannot be compiled (%s): using PyTorch's operators, which are slower", why)
        return None


def find_compiler() -> str | None:
    """Return the C++ compiler: that of the environment variable CXX, g++ or clang++; None without one."""
    return find_program(os.environ.get("CXX", ""), "g++", "clang++")


def _fingerprint(compiler: str) -> str:
    """Return a hash of all inputs of the compilation. It includes the processor: machines may share a home folder."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features"))), "")
    parts = SOURCE.read_bytes(), cpu.encode(), compiler.encode(), " ".join(FLAGS).encode()
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


# Argument types of each kernel: p pointer, l size or stride, a axis, i flag, f number.
SIGNATURES = {
    "batch_norm": "plllppfippppf",
    "normalize": "plllppipl",
    "batch_norm_backward": "plplllpippp",
    "max_pool": "pllaapp",
    "max_pool_backward": "ppllaap",
    "average_pool": "pllaaip",
    "average_pool_backward": "pllaaip",
}
TYPES = {"p": ctypes.c_void_p, "l": ctypes.c_long, "a": ctypes.POINTER(ctypes.c_long), "i": ctypes.c_int, "f": ctypes.c_float}


def call(name: str, dtype: torch.dtype, *arguments: Tensor | Axis | float | None) -> None:
    """Run a kernel of `SIGNATURES`.

    Args:
        name: Key of `SIGNATURES`.
        dtype: Dtype of the feature maps.
        *arguments: Tensors of any shape, sizes of an axis, and numbers, as the kernel takes them.
    """
    _function(name, dtype)(*map(_in_c, arguments))


def _in_c(argument: Tensor | Axis | float | None) -> Any:
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    return _array(argument) if isinstance(argument, tuple) else argument


_array = cache(lambda axis: (ctypes.c_long * len(axis))(*axis))


@cache
def _function(name: str, dtype: torch.dtype) -> Callable[..., None]:
    function = getattr(library(), f"{name}_{'bfloat16' if dtype == torch.bfloat16 else 'float32'}")
    function.argtypes, function.restype = [TYPES[each] for each in SIGNATURES[name]], None
    return function


def _rows(maps: Tensor) -> tuple[int, int]:
    """Return the number of rows, N * H * W, and of channels of channels_last feature maps (N, C, H, W)."""
    return maps.numel() // maps.shape[1], maps.shape[1]


def _stride(maps: Tensor) -> int:
    """Return the distance from one position to the next, for channels_last feature maps (N, C, H, W) or a channel slice."""
    n, c, h, w = maps.shape
    return maps.stride(3) if w > 1 else maps.stride(2) if h > 1 else maps.stride(0) if n > 1 else c


def _is_readable(maps: Tensor) -> bool:
    """Return True if a kernel can read `maps` (N, C, H, W) with `_stride`: channels_last, or a channel slice of that."""
    if maps.is_contiguous(memory_format=torch.channels_last):
        return True
    step, (_, c, h, w) = _stride(maps), maps.shape
    wanted = (h * w * step, 1, w * step, step)
    fits = all(size == 1 or stride == due for size, stride, due in zip(maps.shape, maps.stride(), wanted, strict=True))
    return fits and step >= c


def _numbers(*size: int) -> Tensor:
    """Return an empty fp32 tensor on the CPU; PyTorch's defaults may differ, as Lightning's bf16-true changes the dtype."""
    return torch.empty(size, dtype=torch.float32, device="cpu")


def _empty(like: Tensor, height: int, width: int) -> Tensor:
    size = *like.shape[:2], height, width
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def batch_norm(x: Tensor, norm: nn.BatchNorm2d, relu: bool) -> tuple[Tensor, Tensor]:
    """Compute batch normalization in training, then ReLU.

    Updates the running statistics of `norm`, if it has any.

    Args:
        x: Feature maps (N, C, H, W), channels_last or a channel slice of channels_last feature maps.
        norm: The layer.
        relu: Apply ReLU.

    Returns:
        Feature maps (N, C, H, W) in the dtype of x, and the affine parameters (4, C) in fp32: scale, shift, mean and
        1 / standard deviation of the batch.

    Raises:
        ValueError: There is only one value per channel, as in PyTorch.
    """
    F._verify_batch_size(list(x.shape))  # type: ignore[attr-defined]
    y, affine = _empty(x, *x.shape[2:]), _numbers(4, x.shape[1])
    running = [norm.running_mean, norm.running_var] if norm.track_running_stats else [None, None]
    numbers = [_in_float(each) for each in (norm.weight, norm.bias, *running)]
    momentum, kept = norm.momentum or 0, numbers[2:]
    call("batch_norm", x.dtype, x, _stride(x), *_rows(x), *numbers[:2], norm.eps, relu, y, affine, *kept, momentum)
    for each, new in zip(running, kept, strict=True):
        if each is not None and new is not None and each is not new:
            each.copy_(new)
    if running[0] is not None and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return y, affine


def _in_float(numbers: Tensor | None) -> Tensor | None:
    """Return `numbers` (C) in fp32, contiguous as the kernels read them; no copy if they are so already."""
    if numbers is None or (numbers.dtype == torch.float32 and numbers.is_contiguous()):
        return numbers
    return numbers.detach().float().contiguous()


def normalize(x: Tensor, affine: Tensor, relu: bool, out: Tensor | None = None) -> Tensor:
    """Recompute the output of `batch_norm`.

    Args:
        x: Feature maps (N, C, H, W), as in `batch_norm`.
        affine: The affine parameters (4, C) that `batch_norm` returned.
        relu: Apply ReLU.
        out: Write the result here, (N, C, H, W), channels_last or a channel slice. None: allocate it.

    Returns:
        Feature maps (N, C, H, W).
    """
    y = _empty(x, *x.shape[2:]) if out is None else out
    call("normalize", x.dtype, x, _stride(x), *_rows(x), affine[0], affine[1], relu, y, _stride(y))
    return y


def batch_norm_backward(g: Tensor, x: Tensor, affine: Tensor, relu: bool, gx: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradients of `batch_norm`.

    Args:
        g: Gradient of the output, (N, C, H, W).
        x: Feature maps (N, C, H, W), as in `batch_norm`.
        affine: The affine parameters (4, C) that `batch_norm` returned.
        relu: True if ReLU was applied.
        gx: Receives the gradient of x, (N, C, H, W); needs the strides of x.

    Returns:
        Gradients of weight (C) and bias (C) in fp32.
    """
    if g.dtype != x.dtype or not _is_readable(g):
        g = g.to(x.dtype).contiguous(memory_format=torch.channels_last)
    gweight, gbias = _numbers(2, x.shape[1])
    assert gx.stride() == x.stride()
    call("batch_norm_backward", x.dtype, g, _stride(g), x, _stride(x), *_rows(x), affine, relu, gx, gweight, gbias)
    return gweight, gbias


def max_pool(x: Tensor, h: Axis, w: Axis) -> tuple[Tensor, Tensor]:
    """Compute max pooling.

    Args:
        x: Feature maps (N, C, H, W), channels_last.
        h: Vertical axis.
        w: Horizontal axis.

    Returns:
        Feature maps (N, C, H', W'), and the position of each maximum in its window, (N, C, H', W') uint8.
    """
    y = _empty(x, h[1], w[1])
    which = torch.empty_like(y, dtype=torch.uint8)
    call("max_pool", x.dtype, x, *x.shape[:2], h, w, y, which)
    return y, which


def max_pool_backward(g: Tensor, which: Tensor, h: Axis, w: Axis) -> Tensor:
    """Return the gradient of x (N, C, H, W), for the gradient (N, C, H', W') and the positions (N, C, H', W') of `max_pool`."""
    g = g.contiguous(memory_format=torch.channels_last)
    gx = _empty(g, h[0], w[0])
    call("max_pool_backward", g.dtype, g, which, *g.shape[:2], h, w, gx)
    return gx


def average_pool(x: Tensor, h: Axis, w: Axis, count_padding: bool) -> Tensor:
    """Compute average pooling.

    Args:
        x: Feature maps (N, C, H, W), channels_last.
        h: Vertical axis.
        w: Horizontal axis.
        count_padding: Count the padded zeros in the average.

    Returns:
        Feature maps (N, C, H', W').
    """
    y = _empty(x, h[1], w[1])
    call("average_pool", x.dtype, x, *x.shape[:2], h, w, count_padding, y)
    return y


def average_pool_backward(g: Tensor, h: Axis, w: Axis, count_padding: bool) -> Tensor:
    """Return the gradient of x (N, C, H, W), for the gradient (N, C, H', W') of `average_pool`."""
    g = g.contiguous(memory_format=torch.channels_last)
    gx = _empty(g, h[0], w[0])
    call("average_pool_backward", g.dtype, g, *g.shape[:2], h, w, count_padding, gx)
    return gx
