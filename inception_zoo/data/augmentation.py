"""Augmentation with torchvision's transforms, random for each image: in workers, or for a whole batch on the device."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.data.batched import apply_to_batch
from inception_zoo.data.pixels import centre
from inception_zoo.data.reading import Part, Read, part_of
from inception_zoo.data.source import Batch
from inception_zoo.errors import ZooError, check_number, one_line

Transform = Callable[[Tensor], Tensor]


class Augmentation:
    """Transforms of single training images before normalization, and mixing of batches after it.

    Args:
        crop: transform of the image as read, uint8 (C, H, W), to the network's size, uint8 (C, S, S). With None, images are
            resized and cropped as in evaluation.
        transforms: transforms of uint8 (C, S, S) by name, applied in this order. None disables a transform.
        erasing: probability of erasing a rectangle of 2 to 33 % of the area after the transforms (arXiv 1708.04896).
        mixup: alpha of the Beta distribution for blending two images and their labels (arXiv 1710.09412); 0: off.
        cutmix: alpha of the Beta distribution for pasting a rectangle of one image into another (arXiv 1905.04899); 0: off.
            With `mixup` and `cutmix`, each batch uses one of them at random.

    Raises:
        ZooError: a number is out of range, or a transform is not callable.
    """

    def __init__(
        self,
        crop: Transform | None = None,
        transforms: Mapping[str, Transform | None] | None = None,
        erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        check_number("augmentation.erasing", erasing, at_least=0, at_most=1)
        erase = v2.RandomErasing(erasing) if erasing else None
        named = {"crop": crop, **{f"transforms.{key}": each for key, each in (transforms or {}).items()}}
        for name, transform in named.items():
            if transform is not None and not callable(transform):
                raise ZooError(f"augmentation.{name}={transform} is not a transform: it has no _target_; set it to null")
        self.crop = crop
        self.transforms = [transform for transform in (*(transforms or {}).values(), erase) if transform is not None]
        for key, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            check_number(f"augmentation.{key}", alpha, at_least=0)
        self.mixup, self.cutmix = mixup, cutmix

    def interpolate(self, how: str) -> None:
        """Set the interpolation of a `RandomResizedCrop`: `bilinear`, `bicubic` or `nearest`."""
        if isinstance(self.crop, v2.RandomResizedCrop):
            self.crop.interpolation = InterpolationMode(how)

    def of_picture(self, read: Read, preprocessing: Preprocessing) -> Tensor:
        """Augment one image.

        Args:
            read: reads the image, uint8 (C, H, W) of any size, or a part of it.
            preprocessing: the network's image size S, and how to resize without `crop`.

        Returns:
            The augmented image, uint8 (C, S, S).
        """
        if type(self.crop) is v2.RandomResizedCrop:  # draw first, so that the image can be decoded at a smaller scale
            image = read(self._part)
        else:
            image = self.crop(read()) if self.crop else centre(read(), preprocessing)
        for transform in self.transforms:
            image = transform(image)
        return image

    def _part(self, height: int, width: int) -> Part:
        """Draw a crop of an image of this size as torchvision does."""
        crop: Any = self.crop
        drawn = crop.make_params([torch.empty(1, height, width, device="meta")])
        return Part(**drawn, size=crop.size, interpolation=InterpolationMode(crop.interpolation), antialias=crop.antialias)

    def of_batch(self, images: Tensor) -> Tensor:
        """Augment a batch, with random parameters for each image.

        Args:
            images: uint8 (N, C, H, W).

        Returns:
            uint8 (N, C, S, S), where `crop` determines S; without it, S is the size of `images`.
        """
        for transform in (self.crop, *self.transforms):
            if transform is not None:
                images = apply_to_batch(transform, images)
        return images

    def mix(self, images: Tensor, labels: Tensor, num_classes: int) -> Batch:
        """Apply mixup or cutmix to a batch.

        Args:
            images: normalized float (N, C, S, S).
            labels: int64 (N,).
            num_classes: size of the soft labels.

        Returns:
            Mixed images of the same shape and dtype, and soft labels, float (N, num_classes). With neither mixup nor cutmix,
            the arguments.
        """
        kinds = (v2.MixUp, self.mixup), (v2.CutMix, self.cutmix)
        mixers = [kind(alpha=float(alpha), num_classes=num_classes) for kind, alpha in kinds if alpha]
        if not mixers:
            return images, labels
        chosen = mixers[int(torch.randint(len(mixers), ()))]
        return chosen(images, labels)

    def check(self, image: Tensor, preprocessing: Preprocessing, batch_size: int) -> None:
        """Check that this augmentation works for a training set.

        Args:
            image: one training image before augmentation, uint8 (C, H, W).
            preprocessing: the network's image size, and how to resize without `crop`.
            batch_size: number of images in the batch of one process.

        Raises:
            ZooError: a transform fails, makes another size than the network's, or a batch has too few images to mix.
        """
        if (self.mixup or self.cutmix) and batch_size < 2:
            key = "mixup" if self.mixup else "cutmix"
            raise ZooError(f"augmentation.{key} mixes the images of a batch, but each process has one; raise data.batch_size")
        c, h, w = image.shape
        size = preprocessing.image_size
        try:
            after = self.of_picture(partial(part_of, image), preprocessing)
        except (ValueError, RuntimeError, TypeError) as error:
            raise ZooError(f"augmentation: {one_line(error)} (for an image of {w}x{h} px)") from None
        if after.shape != (c, size, size):
            height, width = after.shape[-2:]
            raise ZooError(f"augmentation: makes {width}x{height} px from {w}x{h} px; must be data.image_size={size}")
