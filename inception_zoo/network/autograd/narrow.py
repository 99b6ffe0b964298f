"""Convolutions in half precision that oneDNN computes wrongly on CPUs with AMX, and the equal ones that replace them.

oneDNN 3.12, which PyTorch 2.14 contains, copies the pixels under one column of outputs to a buffer whose rows have `kernel`
columns, rounded up to a multiple of the stride. If the output is one column wide, it reads rows of ``stride * kernel`` columns
from there (``LDA`` in ``jit_brgemm_conv_utils.cpp``). Unless stride or kernel is 1, the output is garbage.
An input with more zeros on the right gives two columns of outputs, and the first one is the same.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inception_zoo.network.autograd.dispatch import dtype_of

HALF = (torch.bfloat16, torch.float16)
Width = tuple[int, int, int]  # of a convolution: kernel, stride, padding, in columns
ONE = 1, 1, 0


def width_of(conv: nn.Module) -> Width:
    """Return kernel, stride and padding of `conv` in columns; `ONE`, which is never narrow, if nothing needs to change.

    A subclass with its own `forward` may pad `x` in another way, as timm's `Conv2dSame` does: it is left alone.
    """
    own = type(conv).forward is nn.Conv2d.forward  # also with a parametrization, which changes the class
    return columns_of(conv) if isinstance(conv, nn.Conv2d) and own else ONE


def columns_of(conv: nn.Conv2d) -> Width:
    """Return kernel, stride and padding in columns of a convolution as PyTorch computes it, or `ONE`."""
    if conv.stride[1] == 1 or conv.padding_mode != "zeros":
        return ONE
    padding = 0 if isinstance(conv.padding, str) else conv.padding[1]  # a strided convolution may only be "valid"
    return conv.dilation[1] * (conv.kernel_size[1] - 1) + 1, conv.stride[1], padding


def is_narrow(x: Tensor, kernel: int, stride: int, padding: int) -> bool:
    """Return True if oneDNN may compute the convolution of `x` (N, C, H, W) wrongly, for a `Width`."""
    if stride == 1 or kernel == 1 or not isinstance(x, Tensor) or x.device.type != "cpu" or dtype_of(x) not in HALF:
        return False
    return not torch.jit.is_tracing() and 0 <= x.shape[-1] + 2 * padding - kernel < stride


def convolve_narrow(convolution: Callable[[Tensor], Tensor], x: Tensor, width: Width) -> Tensor:
    """Return ``convolution(x)``, (N, K, H', W'), for `x` (N, C, H, W) and the `Width` of the convolution."""
    return convolution(F.pad(x, (0, width[1])))[..., :1] if is_narrow(x, *width) else convolution(x)
