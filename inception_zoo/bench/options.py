"""The options of `inception-zoo bench`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inception_zoo.errors import ZooError

if TYPE_CHECKING:
    from inception_zoo.bench.contenders import Case


@dataclass(frozen=True)
class Options:
    """Options of a benchmark."""

    rounds: int
    networks: tuple[str, ...] = ()  # empty: all networks that have peers
    batch: int | None = None  # images; None: each network's own
    image_size: int | None = None  # pixels; None: each network's own
    data_root: Path = Path("data")  # folder of Fashion-MNIST

    @property
    def are_usual(self) -> bool:
        """True if all networks are measured on their usual input."""
        return not (self.networks or self.batch or self.image_size)

    def fashion_mnist(self) -> Path:
        """Return the folder of Fashion-MNIST.

        Raises:
            ZooError: the data are not there.
        """
        from inception_zoo.data.fashion_mnist import find

        if not (folder := find(self.data_root)):
            raise ZooError(f"--data-root {self.data_root}: Fashion-MNIST is not there; run `make data`")
        return folder.absolute()

    def cases(self) -> "dict[str, Case]":
        """Return the cases by name in the figures: the network, and the input if it is not the usual one.

        Raises:
            ZooError: a network cannot take such an input.
        """
        from inception_zoo.bench.contenders import CASES, case_of

        sizes = {" batch ": self.batch, " px ": self.image_size}
        unusual = "".join(f"{unit}{size}" for unit, size in sizes.items() if size)
        return {f"{name}{unusual}": case_of(name, self.batch, self.image_size) for name in self.networks or CASES}
