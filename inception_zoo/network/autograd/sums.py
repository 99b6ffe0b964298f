"""The residual sum as one autograd function."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from inception_zoo.network import kernels
from inception_zoo.network.autograd.dispatch import dtype_of, first_derivative, without_autocast
from inception_zoo.network.autograd.recipes import Recompute, SavedInput, annotate, recipe_of
from inception_zoo.network.autograd.units import channels_last, convolution_backward, gradient_for


def add(x: Tensor, joined: Tensor, project: nn.Conv2d, scale: float, relu: bool, lean: bool) -> Tensor:
    """Return ``relu(x + scale * project(joined))``. Lean mode recomputes every other sum of a chain from the sum before it.

    Args:
        x: The shortcut's output, (N, K, H, W).
        joined: The concatenated branches, (N, C, H, W).
        project: A 1x1 convolution from C to K channels.
        scale: The residual scale.
        relu: Apply ReLU to the sum.
        lean: Attach a recipe to the sum if that saves memory.

    Returns:
        Feature maps (N, K, H, W).
    """
    joined = joined.to(dtype_of(joined))
    parameters = [p for p in (project.weight, project.bias) if p is not None]
    recipe, addition = recipe_of(joined), _Addition(project, scale, relu, SavedInput.of(joined), SavedInput())
    if not lean or recipe is None or recipe_of(x) is not None or not relu:
        return _Add.apply(x, joined, addition, *parameters)
    join, again = recipe.recompute, replace(addition)  # does not refer to `recipe`: its tensors must be released

    def recompute(x: Tensor, *saved: Tensor) -> Tensor:
        return again(x, join(*saved[len(parameters) :]), saved[: len(parameters)])

    shared, saved = Recompute(recompute), (x, *parameters, *recipe.saved)
    addition.sums = SavedInput(shared, saved)
    return annotate(_Add.apply(x, joined, addition, *parameters), saved, shared)


@dataclass
class _Addition:
    """``relu(x + scale * project(joined))``. In the backward pass, `source` restores `joined`, and `sums` the result."""

    project: nn.Conv2d
    scale: float
    relu: bool
    source: SavedInput
    sums: SavedInput

    def __call__(self, x: Tensor, joined: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Compute the sum, in one call of oneDNN where possible."""
        weight, *rest = self.scaled(parameters, joined.dtype)
        bias = rest[0] if rest else None
        if x.dtype == joined.dtype and kernels.ready(joined) and kernels.in_one_call(joined.dtype):
            return kernels.convolve_and_add(joined, x, weight, bias, ([0, 0], [1, 1], [1, 1], 1), self.relu)
        with without_autocast(joined):
            y = x + torch.conv2d(joined, weight, bias)
        return y.relu_() if self.relu else y

    def scaled(self, parameters: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Return ``scale * parameter`` in `dtype`, detached, for parameters of any shape."""
        typed = (p.detach().to(dtype) for p in parameters)
        return [p if self.scale == 1 else p * self.scale for p in typed]


class _Add(torch.autograd.Function):
    """``y = relu(x + s * (w @ joined + b))`` at every position, with w (K, C, 1, 1) and b (K).

    Saves for backward: `joined` or the tensors of its recipe; w; with ReLU, also y or the tensors of its recipe.
    Recomputes: `joined` and y, if they have recipes.

    Backward: ``gx = g * (y > 0)``, ``g_joined = s * w^T @ gx``, ``gw = s * gx @ joined^T``, ``gb = s * sum(gx)``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, joined: Tensor, addition: _Addition, *parameters: Tensor) -> Tensor:
        """Map x (N, K, H, W) and joined (N, C, H, W) to y (N, K, H, W)."""
        ctx.addition, ctx.parameters = addition, parameters
        y = addition(x, joined, parameters)
        addition.source.save(ctx, joined, parameters[0], *(addition.sums.take(y) if addition.relu else ()))
        return y

    @staticmethod
    @first_derivative
    def backward(ctx: Any, g: Tensor) -> Any:
        """Map the gradient of y (N, K, H, W) to the gradients of x, joined, w and b."""
        addition = ctx.addition
        saved, (weight, *saved_sums) = addition.source.load(ctx)
        g = channels_last(g)  # a global pool's gradient is not, and all sums of the chain would inherit its layout
        if addition.relu:
            g = torch.ops.aten.threshold_backward(g, addition.sums.restore(saved_sums), 0)
        joined = addition.source.restore(saved)
        (w,) = addition.scaled([weight], joined.dtype)
        _, need_joined, _, *need_parameters = ctx.needs_input_grad
        needed = need_joined, need_parameters[0], any(need_parameters[1:])
        g_joined, *found = convolution_backward(g.to(w.dtype), joined, w, addition.project, needed)
        parts = (gradient_for(p, each, addition.scale) for p, each in zip(ctx.parameters, found, strict=False))
        return g, g_joined, None, *parts
