"""Build, train, compare and recombine the networks of the Inception family."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from inception_zoo.errors import ZooError

if TYPE_CHECKING:
    from inception_zoo.models import Pretrained, create_model, load_model
    from inception_zoo.network.inception import Inception, Outputs
    from inception_zoo.weights.loading import load_weights
    from inception_zoo.weights.saving import export_weights, save_model

__version__ = "0.2.0"
_HOMES = {
    "Inception": "network.inception",
    "Outputs": "network.inception",
    "Pretrained": "models",
    "create_model": "models",
    "load_model": "models",
    "load_weights": "weights.loading",
    "export_weights": "weights.saving",
    "save_model": "weights.saving",
}
__all__ = [
    "Inception", "Outputs", "Pretrained", "ZooError", "create_model", "export_weights", "load_model", "load_weights",
    "save_model",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # Import on first use: the command line lists and checks networks without torch.
    if name in _HOMES:
        return getattr(import_module(f"inception_zoo.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'inception_zoo' has no attribute '{name}'")
