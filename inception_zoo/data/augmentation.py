"""Augmentation: torchvision's transforms, drawn anew for every image, in workers or over whole batches on the device."""

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
    """Transforms of training images before normalization, and of batches after it.

    Args:
        crop: from the picture as it was read to the network's size; None: resized and cropped as for evaluation.
        transforms: by name, in order; None switches one off.
        erasing: probability of blanking a rectangle of 2 to 33 % of the area (arXiv 1708.04896), after the transforms.
        mixup: alpha of the Beta distribution of blending two images and their labels (arXiv 1710.09412); 0: off.
        cutmix: likewise, of pasting a rectangle of one image into another (arXiv 1905.04899). With both, each batch draws one.
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
                raise ZooError(f"augmentation.{name}={transform} is no transform, it has no _target_; set it to null")
        self.crop = crop
        self.transforms = [transform for transform in (*(transforms or {}).values(), erase) if transform is not None]
        for key, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            check_number(f"augmentation.{key}", alpha, at_least=0)
        self.mixup, self.cutmix = mixup, cutmix

    def interpolate(self, how: str) -> None:
        """A crop that is resized is resized as in evaluation."""
        if isinstance(self.crop, v2.RandomResizedCrop):
            self.crop.interpolation = InterpolationMode(how)

    def of_picture(self, read: Read, preprocessing: Preprocessing) -> Tensor:
        """One picture of any size → uint8 (C, S, S)."""
        if type(self.crop) is v2.RandomResizedCrop:  # drawn before the picture is decoded
            image = read(self._part)
        else:
            image = self.crop(read()) if self.crop else centre(read(), preprocessing)
        for transform in self.transforms:
            image = transform(image)
        return image

    def _part(self, height: int, width: int) -> Part:
        """The crop as torchvision draws it of a picture of that size."""
        crop: Any = self.crop
        drawn = crop.make_params([torch.empty(1, height, width, device="meta")])
        return Part(**drawn, size=crop.size, interpolation=InterpolationMode(crop.interpolation), antialias=crop.antialias)

    def of_batch(self, images: Tensor) -> Tensor:
        """uint8 images (N, C, S, S) → the same shape, each with its own draw."""
        for transform in (self.crop, *self.transforms):
            if transform is not None:
                images = apply_to_batch(transform, images)
        return images

    def mix(self, images: Tensor, labels: Tensor, num_classes: int) -> Batch:
        """Normalized images and labels (N,) → mixed images, and soft labels (N, num_classes) if anything is mixed."""
        kinds = (v2.MixUp, self.mixup), (v2.CutMix, self.cutmix)
        mixers = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]
        if not mixers:
            return images, labels
        chosen = mixers[int(torch.randint(len(mixers), ()))]
        return chosen(images, labels)

    def check(self, image: Tensor, preprocessing: Preprocessing, batch_size: int) -> None:
        """ZooError if `image`, one of the training set's, or a process's batch cannot be augmented like this."""
        if (self.mixup or self.cutmix) and batch_size < 2:
            key = "mixup" if self.mixup else "cutmix"
            raise ZooError(f"augmentation.{key} mixes the images of a batch, and each process has one; raise data.batch_size")
        c, h, w = image.shape
        size = preprocessing.image_size
        try:
            after = self.of_picture(partial(part_of, image), preprocessing)
        except (ValueError, RuntimeError, TypeError) as error:
            raise ZooError(f"augmentation: {one_line(error)} (of an image of {w}x{h} px)") from None
        if after.shape != (c, size, size):
            height, width = after.shape[-2:]
            raise ZooError(f"augmentation: makes {width}x{height} px of {w}x{h}; the network reads data.image_size={size}")
