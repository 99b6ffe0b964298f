"""Data sources, one module each, and the LightningDataModule that serves their images."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inception_zoo.data.augmentation import Augmentation
    from inception_zoo.data.datamodule import ImageData
    from inception_zoo.data.source import Files, Images, Source

_HOMES = {"Augmentation": "augmentation", "Files": "source", "ImageData": "datamodule", "Images": "source", "Source": "source"}
__all__ = ["Augmentation", "Files", "ImageData", "Images", "Source"]


def __getattr__(name: str) -> Any:
    # Import Lightning on first use only: `make data` then takes a tenth of a second to look for files.
    if name in _HOMES:
        return getattr(import_module(f"inception_zoo.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'inception_zoo.data' has no attribute '{name}'")
