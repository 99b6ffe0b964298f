"""The sweepers as Hydra plugins. Hydra finds plugins only in the namespace package `hydra_plugins`.

Every Hydra application in the environment imports this file, so its options have other names than Hydra's own sweepers.
"""

from hydra.core.config_store import ConfigStore

from inception_zoo.runs import sweepers


class GridSweeper(sweepers.GridSweeper):
    """See `inception_zoo.runs.sweepers`."""


class BlockSweeper(sweepers.BlockSweeper):
    """See `inception_zoo.runs.sweepers`."""


class OptunaSweeper(sweepers.OptunaSweeper):
    """See `inception_zoo.runs.sweepers`."""


for name, node in sweepers.CONFIGS.items():
    ConfigStore.instance().store(name, node, group="hydra/sweeper", provider="inception_zoo")
