"""Feature maps that can be recomputed: which tensors are saved, and the function that recomputes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


class Recompute:
    """``x = function(*saved)``; in the backward pass the result stays until the last of `users` has read it."""

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
        """Return the result to one of the users."""
        result = self(*saved)
        self.users -= 1
        self.result = result if self.users > 0 else None
        return result


@dataclass(frozen=True)
class Recipe:
    """Feature maps as ``recompute(*saved)``; valid while their in-place `version` counter stays the same."""

    recompute: Recompute
    saved: tuple[Tensor, ...]
    version: int


def annotate(x: Tensor, saved: Sequence[Tensor], function: Callable[..., Tensor]) -> Tensor:
    """Attach the recipe ``x = function(*saved)`` to `x`, and return `x`."""
    recompute = function if isinstance(function, Recompute) else Recompute(function)
    x.recipe = Recipe(recompute, tuple(t.detach() for t in saved), x._version)  # type: ignore[attr-defined]
    return x


def recipe_of(x: Tensor) -> Recipe | None:
    """Return the recipe of `x`; None if it has none, or was changed in place since."""
    recipe = getattr(x, "recipe", None)
    return recipe if recipe and recipe.version == x._version else None


def forget(x: Tensor) -> Tensor:
    """Drop the recipe of `x` and the tensors that it holds, and return `x`."""
    x.__dict__.pop("recipe", None)
    return x


class SavedInput:
    """An autograd function's input, saved for backward as itself or as the tensors of its recipe."""

    def __init__(self, recompute: Recompute | None = None, saved: Sequence[Tensor] = ()) -> None:
        self.recompute, self.saved = recompute, tuple(saved)
        if self.recompute:
            self.recompute.users += 1

    @classmethod
    def of(cls, x: Tensor) -> "SavedInput":
        recipe = recipe_of(x)
        return cls(recipe.recompute, recipe.saved) if recipe else cls()

    def take(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors to save, and release them here: from now on only autograd holds them."""
        saved, self.saved = self.saved or (x,), ()
        return saved

    def save(self, ctx: Any, x: Tensor, *others: Tensor) -> None:
        """Save `x`, or what its recipe needs, and then `others`."""
        saved = self.take(x)
        self.count = len(saved)
        ctx.save_for_backward(*saved, *others)

    def load(self, ctx: Any) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return what `save` saved: the tensors for `restore`, and the others."""
        saved = ctx.saved_tensors  # read once: in minimal mode each access may run a segment
        return saved[: self.count], saved[self.count :]

    def restore(self, saved: Sequence[Tensor]) -> Tensor:
        """Return `x`, recomputed if it has a recipe."""
        return self.recompute.serve(*saved) if self.recompute else saved[0]
