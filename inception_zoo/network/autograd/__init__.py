"""The training path: what the forward pass saves for the backward pass, and what the backward pass recomputes (`model.memory`).

    plain    saves the input and the output of every convolution
    lean     saves the output of every convolution; recomputes what follows it (normalize, activate, pool, concatenate)
    minimal  saves the feature maps between the network's segments; each segment runs once more, in lean mode

Feature maps that can be recomputed carry a recipe. A function that reads them saves what the recipe needs instead of the
feature maps. Loss and gradients are the same in every mode, up to rounding. On CPUs, `network.kernels` does the arithmetic.

`dispatch` chooses between a module's own forward pass and the functions of `layers`. `units`, `pools` and `sums` are
autograd functions, `recipes` describes recomputation, and `segments` runs parts of the network again.
"""

from inception_zoo.network.autograd.dispatch import recording, trained_by
from inception_zoo.network.autograd.layers import convolve, pooled, residual, run_branches, run_steps
from inception_zoo.network.autograd.segments import run_segments

__all__ = ["convolve", "pooled", "recording", "residual", "run_branches", "run_segments", "run_steps", "trained_by"]
