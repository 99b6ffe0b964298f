"""The preprocessing that a network expects. It is stored with the weights; training, predict and export apply it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any

from inception_zoo.errors import ZooError, check_whole

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
CROPS = (1, 2, 10, 144)  # valid numbers of crops of an image, whose predictions an evaluation averages


@dataclass(frozen=True)
class Preprocessing:
    """Resize of the shorter side to `resize` pixels, centre crop of `image_size`, normalization ``(pixel - mean) / std``.

    Pixels are from 0 to 1. `mean` and `std` have one value per channel, in the order red, green, blue.
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
            given = f"mean={list(self.mean)} and std={list(self.std)}"
            raise ZooError(f"preprocessing: {given} must be numbers, one per channel, std above 0")

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Preprocessing":
        """Create from plain containers, as files store them.

        Raises:
            ZooError: A key is missing or unknown, or a value is invalid.
        """
        names = {f.name for f in fields(cls)}
        if not isinstance(plain, Mapping) or set(plain) != names or not all(_is_list(plain[k]) for k in ("mean", "std")):
            raise ZooError(f"preprocessing: {plain!r} must have exactly the keys {', '.join(sorted(names))}")
        return cls(**{**plain, "mean": tuple(plain["mean"]), "std": tuple(plain["std"])})

    def plain(self) -> dict[str, Any]:
        """Return the fields as plain containers."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}


def usual_resize(image_size: int) -> int:
    """Return the usual `resize` for a crop of `image_size` pixels: crops usually keep 87.5 % of the side, as 224 of 256."""
    return round(image_size / 0.875)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


@dataclass(frozen=True)
class Stated:
    """The user's options about a file: preprocessing, which overrides that of the file, and facts that it may leave open.

    `ema` and `transform_input` are those of `inception_zoo.load_weights`.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    ema: bool | None = None
    transform_input: bool | None = None

    @property
    def preprocesses(self) -> bool:
        """True if an option of the preprocessing is given."""
        return any(option is not None for option in (self.mean, self.std, self.image_size))

    def over(self, known: Preprocessing | None, usual: int, source: object, again: bool = False) -> Preprocessing:
        """Return the preprocessing to use: the user's values, otherwise those of the file.

        Args:
            known: Preprocessing of the file, if it has one.
            usual: Image size in pixels if the user and the file give none; 0 if unknown.
            source: The file, for the message.
            again: The file's network normalizes images a second time, and its own preprocessing is both in one.

        Raises:
            ZooError: Neither the user nor the file gives the image size, or mean and std.
        """
        mean, std = self.mean or (known.mean if known else None), self.std or (known.std if known else None)
        if again and (self.mean or self.std):  # the options are those of the images before the second one
            mean, std = transformed(self.mean or IMAGENET[0], self.std or IMAGENET[1])
        if not (self.image_size or known or usual):
            raise ZooError(f"{source} does not state its image size; give --image-size")
        if mean is None or std is None:
            raise ZooError(f"{source} does not state its mean and std; give --mean and --std, such as 0.5,0.5,0.5")
        size = self.image_size or (known.image_size if known else usual)
        shorter = round(size * known.resize / known.image_size) if known else usual_resize(size)
        return Preprocessing(size, mean, std, shorter, known.interpolation if known else "bilinear")


def transformed(mean: Sequence[float], std: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the one normalization that equals two: by `mean` and `std`, then by torchvision's `transform_input`.

    The latter is x → (x · std_I + mean_I − 0.5) / 0.5, with ImageNet's mean_I and std_I.
    """
    rows = list(zip(mean, std, *IMAGENET, strict=False))  # the caller compares their number with that of the channels
    return tuple(m - s * (mi - 0.5) / si for m, s, mi, si in rows), tuple(s * 0.5 / si for _, s, _, si in rows)


NOTHING_STATED = Stated()
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and std of its training images, the most common choice
HALF = (0.5,) * 3, (0.5,) * 3  # scales pixels to -1 to 1, the input of TensorFlow's models
