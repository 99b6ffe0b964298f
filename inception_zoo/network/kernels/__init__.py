"""Our own CPU kernels: batch normalization with ReLU, and pooling, over channels_last maps in fp32 and bf16.

`kernels.cpp` is compiled at first use, for the machine that it runs on, into the user's cache: about two seconds, once.
Without a C++ compiler (or with INCEPTION_ZOO_KERNELS=0) `ready` is false, and PyTorch's own operators do the same.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
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

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-std=c++17", "-shared", "-fPIC", "-fopenmp")
SWITCH = "INCEPTION_ZOO_KERNELS"
DTYPES = (torch.float32, torch.bfloat16)
Axis = tuple[int, int, int, int, int]  # input, output, kernel, stride, padding


def ready(maps: Tensor) -> bool:
    """Whether the kernels are for such maps (N, C, H, W); they read them channels_last."""
    usual = maps.device.type == "cpu" and maps.dtype in DTYPES and maps.dim() == 4 and maps.numel() > 0
    return usual and library() is not None


def in_one_call(dtype: torch.dtype) -> bool:
    """Whether oneDNN convolves such maps here, with a sum and ReLU in the same call; bf16 not on every CPU."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def convolve_and_add(x: Tensor, other: Tensor, weight: Tensor, bias: Tensor | None, place: Any, relu: bool) -> Tensor:
    """The convolution of `x` at `place` (padding, stride, dilation, groups), and `other`, then ReLU: one call of oneDNN."""
    binary, then = torch.ops.mkldnn._convolution_pointwise.binary, "relu" if relu else None
    return binary(x, other, weight, bias, *place, "add", 1.0, then, [], None)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where there is no compiler."""
    if os.environ.get(SWITCH) == "0" or platform.system() != "Linux":
        return None
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))), None)
    if compiler is None:
        log.info("no C++ compiler: training takes PyTorch's own kernels, which are slower on CPUs")
        return None
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inception_zoo"
        file = folder / f"kernels-{_fingerprint(compiler)}.so"
        if not file.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with whole_file(file) as temporary:
                subprocess.run([compiler, *FLAGS, SOURCE, "-o", temporary], check=True, capture_output=True, text=True)
        return ctypes.CDLL(str(file))
    except (OSError, RuntimeError, ZooError, subprocess.CalledProcessError) as error:  # RuntimeError: a user without a home
        words = (error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)).strip().splitlines()
        log.warning(
            "the CPU kernels cannot be made (%s): PyTorch's own are taken, which are slower", words[0] if words else "?"
        )
        return None


def _fingerprint(compiler: str) -> str:
    """Of all that the file depends on: a home may be shared by machines with other processors."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features"))), "")
    parts = SOURCE.read_bytes(), cpu.encode(), compiler.encode(), " ".join(FLAGS).encode()
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


# The types of what each kernel is given: p a pointer, l a size or a stride, a an axis, i whether, f a number.
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


def _call(name: str, dtype: torch.dtype, *arguments: Tensor | Axis | float | None) -> None:
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
    """Rows and channels of channels_last maps."""
    return maps.numel() // maps.shape[1], maps.shape[1]


def _stride(maps: Tensor) -> int:
    """From the channels of one position to those of the next, of channels_last maps or of some channels of such."""
    n, c, h, w = maps.shape
    return maps.stride(3) if w > 1 else maps.stride(2) if h > 1 else maps.stride(0) if n > 1 else c


def _is_readable(maps: Tensor) -> bool:
    """Whether `_stride` is all that there is to say of where maps lie."""
    if maps.is_contiguous(memory_format=torch.channels_last):
        return True
    step, (_, c, h, w) = _stride(maps), maps.shape
    wanted = (h * w * step, 1, w * step, step)
    fits = all(size == 1 or stride == due for size, stride, due in zip(maps.shape, maps.stride(), wanted, strict=True))
    return fits and step >= c


def _numbers(*size: int) -> Tensor:
    """Of every channel, whatever PyTorch's default type and device are: Lightning's bf16-true changes the first."""
    return torch.empty(size, dtype=torch.float32, device="cpu")


def _empty(like: Tensor, height: int, width: int) -> Tensor:
    size = *like.shape[:2], height, width
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def batch_norm(x: Tensor, norm: nn.BatchNorm2d, relu: bool) -> tuple[Tensor, Tensor]:
    """Batch normalization in training, then ReLU: maps → maps, and (4, C): scale, shift, mean, 1 / standard deviation.

    The running statistics learn of this batch if the norm tracks any.

    Raises:
        ValueError: PyTorch's own, of a single value per channel.
    """
    F._verify_batch_size(list(x.shape))  # type: ignore[attr-defined]
    y, affine = _empty(x, *x.shape[2:]), _numbers(4, x.shape[1])
    running = [norm.running_mean, norm.running_var] if norm.track_running_stats else [None, None]
    numbers = [_in_float(each) for each in (norm.weight, norm.bias, *running)]
    momentum, kept = norm.momentum or 0, numbers[2:]
    _call("batch_norm", x.dtype, x, _stride(x), *_rows(x), *numbers[:2], norm.eps, relu, y, affine, *kept, momentum)
    for each, new in zip(running, kept, strict=True):
        if each is not None and new is not None and each is not new:
            each.copy_(new)
    if running[0] is not None and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return y, affine


def _in_float(numbers: Tensor | None) -> Tensor | None:
    """Themselves, unless they are in bf16."""
    return numbers if numbers is None or numbers.dtype == torch.float32 else numbers.detach().float()


def normalize(x: Tensor, affine: Tensor, relu: bool, out: Tensor | None = None) -> Tensor:
    """Maps → what `batch_norm` made of them; into `out` if given, which may be some channels of larger maps."""
    y = _empty(x, *x.shape[2:]) if out is None else out
    _call("normalize", x.dtype, x, _stride(x), *_rows(x), affine[0], affine[1], relu, y, _stride(y))
    return y


def batch_norm_backward(g: Tensor, x: Tensor, affine: Tensor, relu: bool, gx: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of what `batch_norm` made of x → that of x, into `gx`, which lies in memory as x does; of weight and bias."""
    if g.dtype != x.dtype or not _is_readable(g):
        g = g.to(x.dtype).contiguous(memory_format=torch.channels_last)
    gweight, gbias = _numbers(2, x.shape[1])
    assert gx.stride() == x.stride()
    _call("batch_norm_backward", x.dtype, g, _stride(g), x, _stride(x), *_rows(x), affine, relu, gx, gweight, gbias)
    return gweight, gbias


def max_pool(x: Tensor, h: Axis, w: Axis) -> tuple[Tensor, Tensor]:
    """Maps → pooled maps, and where in its window each was found, in one byte."""
    y = _empty(x, h[1], w[1])
    which = torch.empty_like(y, dtype=torch.uint8)
    _call("max_pool", x.dtype, x, *x.shape[:2], h, w, y, which)
    return y, which


def max_pool_backward(g: Tensor, which: Tensor, h: Axis, w: Axis) -> Tensor:
    g = g.contiguous(memory_format=torch.channels_last)
    gx = _empty(g, h[0], w[0])
    _call("max_pool_backward", g.dtype, g, which, *g.shape[:2], h, w, gx)
    return gx


def average_pool(x: Tensor, h: Axis, w: Axis, count_padding: bool) -> Tensor:
    y = _empty(x, h[1], w[1])
    _call("average_pool", x.dtype, x, *x.shape[:2], h, w, count_padding, y)
    return y


def average_pool_backward(g: Tensor, h: Axis, w: Axis, count_padding: bool) -> Tensor:
    g = g.contiguous(memory_format=torch.channels_last)
    gx = _empty(g, h[0], w[0])
    _call("average_pool_backward", g.dtype, g, *g.shape[:2], h, w, count_padding, gx)
    return gx
