"""The stages of each network with blocks that a variant may replace."""

from inception_zoo.architecture.nets import ZOO
from inception_zoo.architecture.plan import make_plan


def swapped_stages(net):
    """Return the stages with blocks to swap; Xception's exit has only a grid reduction and single convolutions."""
    found = (block.stage for block in make_plan(net).blocks if block.kind == "block" and block.has_branches)
    return [stage for stage in dict.fromkeys(found) if stage in net.grids]


STAGES = {name: swapped_stages(net) for name, net in ZOO.items()}
