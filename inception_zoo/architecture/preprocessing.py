"""What a network expects of its images. It travels with the weights; training, predict and export obey it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any

from inception_zoo.errors import ZooError, check_whole

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
CROPS = (1, 2, 10, 144)  # views of an image that an evaluation can average


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side to `resize` pixels, crop the centre of `image_size`, normalize ``(pixel - mean) / std``.

    `mean` and `std` are per channel, in the order red, green, blue, of pixels from 0 to 1.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        check_whole("preprocessing: image_size", self.image_size, at_least=1)
        check_whole("preprocessing: resize", self.resize, at_least=self.image_size)
        if self.interpolation not in INTERPOLATIONS:
            raise ZooError(f"preprocessing: interpolation={self.interpolation} is unknown; valid: {', '.join(INTERPOLATIONS)}")
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and isfinite(v) for v in (*self.mean, *self.std))
        if not numbers or not self.mean or len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ZooError(
                f"preprocessing: mean={list(self.mean)} and std={list(self.std)} must be numbers, one per channel, std above 0"
            )

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Preprocessing":
        """From plain containers, as a file holds them; ZooError if they are not what a `Preprocessing` has."""
        names = {f.name for f in fields(cls)}
        if not isinstance(plain, Mapping) or set(plain) != names or not all(_is_list(plain[k]) for k in ("mean", "std")):
            raise ZooError(f"preprocessing: {plain!r} must have {', '.join(sorted(names))}")
        return cls(**{**plain, "mean": tuple(plain["mean"]), "std": tuple(plain["std"])})

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}


def usual_resize(image_size: int) -> int:
    """The shorter side where only the crop's is known: crops are usually of 87.5 %, as 224 of 256."""
    return round(image_size / 0.875)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


@dataclass(frozen=True)
class Stated:
    """What the user says of the preprocessing; it goes before what the file says."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None

    def over(self, known: Preprocessing | None, usual: int, source: object) -> Preprocessing:
        """The preprocessing that holds; ZooError if neither the user nor `source` says it."""
        mean, std = self.mean or (known.mean if known else None), self.std or (known.std if known else None)
        if not (self.image_size or known or usual):
            raise ZooError(f"{source} does not say the size of its images; give --image-size")
        if mean is None or std is None:
            raise ZooError(f"{source} does not say what its images are normalized with; give --mean and --std, as 0.5,0.5,0.5")
        size = self.image_size or (known.image_size if known else usual)
        shorter = round(size * known.resize / known.image_size) if known else usual_resize(size)
        return Preprocessing(size, mean, std, shorter, known.interpolation if known else "bilinear")


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and std of the training images, the usual choice
HALF = (0.5,) * 3, (0.5,) * 3  # pixels from -1 to 1, as TensorFlow's models take them
