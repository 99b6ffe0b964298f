"""The options of `inception-zoo bench`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inception_zoo.errors import ZooError

if TYPE_CHECKING:
    from inception_zoo.bench.contenders import Case


@dataclass(frozen=True)
class Options:
    rounds: int
    networks: tuple[str, ...] = ()  # all that have peers when left out
    batch: int | None = None
    image_size: int | None = None
    data_root: Path = Path("data")  # of Fashion-MNIST

    @property
    def are_usual(self) -> bool:
        """True if all networks are measured, on their usual input."""
        return not (self.networks or self.batch or self.image_size)

    def fashion_mnist(self) -> Path:
        """The folder that holds it; ZooError if none does."""
        from inception_zoo.data.fashion_mnist import find

        if not (folder := find(self.data_root)):
            raise ZooError(f"--data-root {self.data_root} holds no Fashion-MNIST; run `make data`")
        return folder.absolute()

    def cases(self) -> "dict[str, Case]":
        """By what the figures are named: the network, and the input where that is not the usual one.

        Raises:
            ZooError: a network cannot take such an input.
        """
        from inception_zoo.bench.contenders import CASES, case_of

        sizes = {" batch ": self.batch, " px ": self.image_size}
        unusual = "".join(f"{unit}{size}" for unit, size in sizes.items() if size)
        return {f"{name}{unusual}": case_of(name, self.batch, self.image_size) for name in self.networks or CASES}
