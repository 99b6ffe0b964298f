"""The Inception family as tables: build, train, compare and recombine."""

from typing import TYPE_CHECKING, Any

from inception_zoo.errors import ZooError

if TYPE_CHECKING:
    from inception_zoo.network import Inception, Outputs, create_model
    from inception_zoo.weights import export_weights, load_model, load_weights, save_model

__version__ = "0.1.0"
__all__ = [
    "Inception", "Outputs", "ZooError", "create_model", "export_weights", "load_model", "load_weights", "save_model",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # torch loads on first use, so that the command line can list and check networks without it.
    if name in ("Inception", "Outputs", "create_model"):
        from inception_zoo import network

        return getattr(network, name)
    if name in ("export_weights", "load_model", "load_weights", "save_model"):
        from inception_zoo import weights

        return getattr(weights, name)
    raise AttributeError(f"module 'inception_zoo' has no attribute '{name}'")
