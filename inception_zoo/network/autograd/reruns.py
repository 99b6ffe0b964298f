"""Operations without a kernel of ours, recomputed by running them again in the backward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from inception_zoo.network.autograd.recipes import SavedInput, annotate, recipe_of

Function = Callable[[Tensor], Tensor]


def rerun(x: Tensor, first: Function, again: Function, parameters: Sequence[Tensor] = ()) -> Tensor:
    """Return ``first(x)``, with a recipe; save only `x`, or what its recipe needs, for the backward pass.

    Args:
        x: Feature maps (N, C, H, W).
        first: Any differentiable function of `x` and `parameters`.
        again: The same function without side effects, for the backward pass.
        parameters: The tensors beside `x` that receive a gradient.
    """
    recipe = recipe_of(x)
    y = _Rerun.apply(x, SavedInput.of(x), first, again, *parameters)
    return annotate(y, recipe.saved if recipe else (x,), _After(recipe.recompute if recipe else (lambda x: x), again))


class _After:
    """``again(recompute(*saved))``, without gradients."""

    def __init__(self, recompute: Callable[..., Tensor], again: Function) -> None:
        self.recompute, self.again = recompute, again

    def __call__(self, *saved: Tensor) -> Tensor:
        with torch.no_grad():
            return self.again(self.recompute(*saved))


class _Rerun(torch.autograd.Function):
    """``y = first(x)``.

    Saves for backward: `x`, or what its recipe needs, and the parameters. Recomputes: `x` if it has a recipe, then
    ``y = again(x)`` with gradients enabled, and differentiates that.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: SavedInput, first: Function, again: Function, *parameters: Tensor) -> Tensor:
        """Feature maps (N, C, H, W) → ``first(x)``, of any shape."""
        ctx.source, ctx.again = source, again
        source.save(ctx, x, *parameters)
        return first(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        """Gradient of y → gradients of x (N, C, H, W) and of each parameter."""
        saved, parameters = ctx.source.load(ctx)
        x = ctx.source.restore(saved).detach().requires_grad_()
        trainable = [p for p in parameters if p.requires_grad]
        with torch.enable_grad():
            gx, *found = torch.autograd.grad(ctx.again(x), [x, *trainable], g)
        gradients = iter(found)
        return gx, None, None, None, *(next(gradients) if p.requires_grad else None for p in parameters)
