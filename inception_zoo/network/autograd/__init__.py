"""What training keeps of the forward pass for the backward pass, and how the rest is made again: `model.memory`.

    plain    the output of every convolution, and the maps that every convolution reads
    lean     the output of every convolution; what is made of it cheaply (normalized, activated, pooled, joined) is made again
    minimal  the maps between the segments of the network; each segment runs once more, lean

Maps that can be made again carry a recipe; whoever reads them keeps what the recipe needs, in place of the maps. Loss and
gradients are the same in every mode, to rounding. On CPUs our own kernels do the work, in plain, too: `kernels`.

`layers` is what the network's modules call; `units` and `pools` are its steps of autograd, `recipes` how maps are made again,
`segments` how a part of the network runs again.
"""

from inception_zoo.network.autograd.layers import convolve, is_plain_sum, pooled, recording, residual, run_branches, run_steps
from inception_zoo.network.autograd.segments import segment

__all__ = ["convolve", "is_plain_sum", "pooled", "recording", "residual", "run_branches", "run_steps", "segment"]
