"""Recipes: the saved tensors and the function that recompute feature maps in the backward pass.

`rerun` makes an operation recomputable that has no kernel in `network.kernels`. Tensors have any shape where none is given.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from inception_zoo.network.autograd.dispatch import first_derivative

Function = Callable[[Tensor], Tensor]
State = AbstractContextManager[Any]


class Recompute:
    """``x = function(*saved)``. In the backward pass, the result is stored until the last of the `users` has read it."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function, self.users = function, 0
        self.result: Tensor | None = None

    def __call__(self, *saved: Tensor) -> Tensor:
        return self.result if self.result is not None else self.function(*saved)

    def into(self, out: Tensor, *saved: Tensor) -> None:
        """Write the result to `out`, which may be a slice of a larger tensor."""
        write = getattr(self.function, "into", None)
        if self.result is None and write:
            write(out, *saved)
        else:
            out.copy_(self(*saved))

    def serve(self, *saved: Tensor) -> Tensor:
        """Return the result to one of the users; after the last one, release it."""
        result = self(*saved)
        self.users -= 1
        self.result = result if self.users > 0 else None
        return result


@dataclass(frozen=True)
class Recipe:
    """Feature maps as ``recompute(*saved)``; valid while `version`, their counter of in-place changes, stays the same."""

    recompute: Recompute
    saved: tuple[Tensor, ...]
    version: int


def annotate(x: Tensor, saved: Sequence[Tensor], function: Callable[..., Tensor]) -> Tensor:
    """Attach the recipe ``x = function(*saved)`` to `x` (any shape), and return `x`."""
    recompute = function if isinstance(function, Recompute) else Recompute(function)
    x.recipe = Recipe(recompute, tuple(t.detach() for t in saved), x._version)  # type: ignore[attr-defined]
    return x


def recipe_of(x: Tensor) -> Recipe | None:
    """Return the recipe of `x` (any shape); None if it has none, or if `x` was changed in place."""
    recipe = getattr(x, "recipe", None)
    return recipe if recipe and recipe.version == x._version else None


def forget(x: Tensor) -> Tensor:
    """Remove the recipe of `x` (any shape), which releases its tensors, and return `x`."""
    x.__dict__.pop("recipe", None)
    return x


class SavedInput:
    """The input of an autograd function, saved for backward as it is or as the tensors of its recipe."""

    def __init__(self, recompute: Recompute | None = None, saved: Sequence[Tensor] = ()) -> None:
        self.recompute, self.saved = recompute, tuple(saved)
        if self.recompute:
            self.recompute.users += 1

    @classmethod
    def of(cls, x: Tensor) -> "SavedInput":
        recipe = recipe_of(x)
        return cls(recipe.recompute, recipe.saved) if recipe else cls()

    def take(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors to save for `x` (any shape), and release them here: afterwards, only autograd holds them."""
        saved, self.saved = self.saved or (x,), ()
        return saved

    def save(self, ctx: Any, x: Tensor, *others: Tensor) -> None:
        """Save `x` or the tensors of its recipe, then `others` (all of any shape)."""
        saved = self.take(x)
        self.count = len(saved)
        ctx.save_for_backward(*saved, *others)

    def load(self, ctx: Any) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return the saved tensors: those for `restore`, and the others."""
        saved = ctx.saved_tensors  # read once: in minimal mode, each access may recompute a segment
        return saved[: self.count], saved[self.count :]

    def restore(self, saved: Sequence[Tensor]) -> Tensor:
        """Return `x`, recomputed if it has a recipe."""
        return self.recompute.serve(*saved) if self.recompute else saved[0]


def rerun(x: Tensor, run: Function, parameters: Sequence[Tensor] = (), state: State | None = None) -> Tensor:
    """Return ``run(x)`` with a recipe; save only `x`, or the tensors of its recipe, for the backward pass.

    Args:
        x: Feature maps (N, C, H, W).
        run: Any differentiable function of `x` and `parameters`.
        parameters: The other tensors that receive a gradient.
        state: The state of the modules in `run`, if they have any.

    Returns:
        A tensor with the shape of ``run(x)``.
    """
    state = state or nullcontext()
    recipe = recipe_of(x)
    saved, before = (recipe.saved, recipe.recompute) if recipe else ((x,), lambda x: x)

    def recompute(*saved: Tensor) -> Tensor:
        with torch.no_grad(), state:
            return run(before(*saved))

    return annotate(_Rerun.apply(x, SavedInput.of(x), run, state, *parameters), saved, recompute)


class _Rerun(torch.autograd.Function):
    """``y = run(x)``.

    Saves for backward: `x`, or the tensors of its recipe, and the parameters. Recomputes: `x` if it has a recipe, then
    ``y = run(x)`` in the same `state`, with gradients enabled, which autograd differentiates.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: SavedInput, run: Function, state: State, *parameters: Tensor) -> Tensor:
        """Map feature maps (N, C, H, W) to ``run(x)``, of any shape."""
        ctx.source, ctx.run, ctx.state = source, run, state
        source.save(ctx, x, *parameters)
        return run(x)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, g: Tensor) -> Any:
        """Map the gradient of y to the gradients of x (N, C, H, W) and of each parameter."""
        saved, parameters = ctx.source.load(ctx)
        x = ctx.source.restore(saved).detach().requires_grad_()
        needed = ctx.needs_input_grad[4:]
        with torch.enable_grad(), ctx.state:
            gx, *found = torch.autograd.grad(ctx.run(x), [x, *compress(parameters, needed)], g)
        gradients = iter(found)
        return gx, None, None, None, *(next(gradients) if each else None for each in needed)
