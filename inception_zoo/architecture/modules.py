"""A block that is a `torch.nn.Module` of the user: checked and counted on the meta device, without weights and without data.

Nothing here imports torch: if a function returns a module, the user's code has imported it. `network.blocks` builds the module
again, with weights.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from importlib import import_module
from typing import Any

from inception_zoo.architecture.geometry import Size, out_size
from inception_zoo.architecture.notation import Module
from inception_zoo.errors import ZooError, one_line


def is_module(value: object) -> bool:
    """Return True for a `torch.nn.Module`."""
    return "torch" in sys.modules and isinstance(value, sys.modules["torch"].nn.Module)


def on_meta() -> AbstractContextManager[Any]:
    """Return a context in which a function builds its module without memory and without random numbers."""
    return sys.modules["torch"].device("meta") if "torch" in sys.modules else nullcontext()


def measure(op: Module, c_in: int, grid: Size) -> tuple[int, int]:
    """Run a module on the meta device; return its parameters, and its multiply-adds per image (convolutions, matrix products).

    Args:
        op: The module.
        c_in: Input channels.
        grid: Input height and width.

    Raises:
        ZooError: The module cannot be built or run, shares weights, does not train, or gives another shape than its block.
    """
    torch: Any = sys.modules["torch"]
    flops = import_module("torch.utils.flop_counter").FlopCounterMode(display=False)
    images, size, due = 2, (c_in, *grid), (op.width, *out_size(((op,),), grid))
    try:
        with on_meta(), torch.no_grad(), flops:
            module, another = op.build(), op.build()
            found = deepcopy(module).to("meta")(torch.empty(images, *size))  # `to` would change what the user's code keeps
    except Exception as error:  # the user's module
        raise ZooError(f"{op.place} fails for {size} on the meta device: {type(error).__name__}: {one_line(error)}") from error
    if {module, *module.parameters(), *module.buffers()} & {another, *another.parameters(), *another.buffers()}:
        raise ZooError(f"{op.place} returns the same layer in every call; create the layers inside of the function")
    if layer := next((layer for layer in module.modules() if not layer.training), None):
        raise ZooError(f"{op.place} returns {type(layer).__name__} in evaluation mode; remove eval()")
    if not isinstance(found, torch.Tensor) or found.shape != (images, *due):
        gives = tuple(found.shape[1:]) if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
        raise ZooError(f"{op.place} gives {gives} per image instead of {due} (channels, height, width)")
    return sum(each.numel() for each in module.parameters()), flops.get_total_flops() // (2 * images)
