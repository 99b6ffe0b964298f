"""Sources of images, one file each, and the DataModule that serves them."""

from inception_zoo.data.module import ImageData
from inception_zoo.data.source import Images, Source

__all__ = ["ImageData", "Images", "Source"]
