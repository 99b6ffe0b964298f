"""Hydra looks for sweepers in the namespace package `hydra_plugins`, hence this place."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override

from inception_zoo.nets import ZOO, find_net
from inception_zoo.variants import BLOCKS


class BlockSweeper(BasicSweeper):
    """Network x stage x variant: each network as published, then with one stage's blocks swapped at a time.

    What else has several values on the command line multiplies, as in any sweep: ``seed=1,2,3``.
    """

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None, variants: Sequence[str]) -> None:
        super().__init__(max_batch_size, params)
        self.variants = variants

    def split_arguments(  # type: ignore[override]  # a static method there
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        ((*jobs,),) = BasicSweeper.split_arguments(overrides, None)
        jobs = [[*job, *swap] for job in jobs for swap in self._swaps(job)]
        return list(self.split_overrides_to_chunks(jobs, max_batch_size))

    def _swaps(self, job: Sequence[str]) -> list[list[str]]:
        (name,) = (word.removeprefix("model=") for word in job if word.startswith("model="))
        return [[], *([f"model.blocks.{grid}={variant}"] for grid in find_net(name).grids for variant in self.variants)]


@dataclass
class BlockSweeperConf(BasicSweeperConf):
    _target_: str = "hydra_plugins.inception_zoo_sweeper.BlockSweeper"
    params: dict[str, str] | None = field(default_factory=lambda: {"model": ",".join(ZOO)})
    variants: list[str] = field(default_factory=lambda: [name for name in BLOCKS if not name.startswith("residual_")])


ConfigStore.instance().store(group="hydra/sweeper", name="blocks", node=BlockSweeperConf, provider="inception_zoo")
