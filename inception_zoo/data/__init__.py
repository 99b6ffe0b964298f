"""Sources of images, one file each, and the DataModule that serves them."""

from inception_zoo.data.augmentation import Augmentation
from inception_zoo.data.module import ImageData
from inception_zoo.data.source import Files, Images, Source

__all__ = ["Augmentation", "Files", "ImageData", "Images", "Source"]
