"""Maps that can be made again: what is kept of them, and how they are made of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Make = Callable[..., Tensor]


class Maker:
    """Makes maps again, once for all who read them: they stay until the last of `users` has them."""

    def __init__(self, make: Make) -> None:
        self.make, self.users = make, 0
        self.made: Tensor | None = None

    def __call__(self, *kept: Tensor) -> Tensor:
        return self.made if self.made is not None else self.make(*kept)

    def into(self, out: Tensor, *kept: Tensor) -> None:
        """As a call, but written to `out`."""
        write = getattr(self.make, "into", None)
        if self.made is None and write:
            write(out, *kept)
        else:
            out.copy_(self(*kept))

    def serve(self, *kept: Tensor) -> Tensor:
        """For one of the users."""
        made = self(*kept)
        self.users -= 1
        self.made = made if self.users > 0 else None
        return made


@dataclass(frozen=True)
class Recipe:
    """The tensors that maps can be made of; `version` tells whether somebody has changed the maps since."""

    make: Maker
    kept: tuple[Tensor, ...]
    version: int


def annotate(maps: Tensor, kept: Sequence[Tensor], make: Make) -> Tensor:
    maker = make if isinstance(make, Maker) else Maker(make)
    maps.recipe = Recipe(maker, tuple(t.detach() for t in kept), maps._version)  # type: ignore[attr-defined]
    return maps


def recipe_of(maps: Tensor) -> Recipe | None:
    recipe = getattr(maps, "recipe", None)
    return recipe if recipe and recipe.version == maps._version else None


def forget(maps: Tensor) -> Tensor:
    """The maps without their recipe, and what it holds."""
    maps.__dict__.pop("recipe", None)
    return maps


class Source:
    """Maps as a function keeps them for its backward pass: themselves, or what their recipe needs."""

    def __init__(self, maker: Maker | None = None, kept: Sequence[Tensor] = ()) -> None:
        self.maker, self.kept = maker, tuple(kept)
        if self.maker:
            self.maker.users += 1

    @classmethod
    def of(cls, maps: Tensor) -> "Source":
        recipe = recipe_of(maps)
        return cls(recipe.make, recipe.kept) if recipe else cls()

    def take(self, maps: Tensor) -> tuple[Tensor, ...]:
        """What is to be saved; from here on the tensors are autograd's alone."""
        kept, self.kept = self.kept or (maps,), ()
        return kept

    def save(self, ctx: Any, maps: Tensor, *others: Tensor) -> None:
        kept = self.take(maps)
        self.count = len(kept)
        ctx.save_for_backward(*kept, *others)

    def load(self, ctx: Any) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        saved = ctx.saved_tensors  # read once: a segment runs for it
        return saved[: self.count], saved[self.count :]

    def maps(self, kept: Sequence[Tensor]) -> Tensor:
        return self.maker.serve(*kept) if self.maker else kept[0]
