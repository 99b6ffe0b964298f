"""The training path: the activations that are saved for the backward pass, and those that it recomputes (`model.memory`).

    plain    saves the input and the output of every convolution
    lean     saves the output of every convolution; recomputes normalization, activation, pooling and concatenation, and
             depthwise convolutions
    minimal  saves the feature maps between the network's segments; recomputes each segment, in lean mode

Feature maps that can be recomputed have a recipe. A function that reads them saves the tensors of the recipe instead of the
feature maps. Loss and gradients are the same in every mode, up to rounding. On CPUs, `network.kernels` computes them.

`dispatch` chooses between a module's own forward pass and the functions of `layers`. `units`, `pools` and `sums` are autograd
functions; `narrow` avoids convolutions that oneDNN computes wrongly. `recipes` describes recomputation, and `segments`
recomputes whole parts of the network.
"""

from inception_zoo.network.autograd.dispatch import recording, trained_by
from inception_zoo.network.autograd.layers import convolve, pooled, repeated, residual, run_branches, run_steps
from inception_zoo.network.autograd.narrow import columns_of, convolve_narrow, width_of
from inception_zoo.network.autograd.segments import run_segments

__all__ = [
    "columns_of",
    "convolve",
    "convolve_narrow",
    "pooled",
    "recording",
    "repeated",
    "residual",
    "run_branches",
    "run_segments",
    "run_steps",
    "trained_by",
    "width_of",
]
