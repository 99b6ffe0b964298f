"""Check the size of images against a network, before any work starts. This file does not import torch."""

from collections.abc import Mapping
from typing import Any

from inception_zoo.architecture.choices import VALID
from inception_zoo.architecture.plan import KEEP, plan_of
from inception_zoo.errors import ZooError


def check_image_size(model: Mapping[str, Any], key: str, image_size: int) -> None:
    """Check that a network accepts images of `image_size` pixels.

    Args:
        model: The composed `model` node.
        key: Config key of the size, for the message.
        image_size: Side of the images in pixels.

    Raises:
        ZooError: The size does not fit; the message names the minimum, and the stem or the nearest size that fits.
    """
    plan = plan_of(model)
    try:
        plan.walk((image_size, image_size))
    except ZooError as error:
        minimum = plan.min_image_size()
        if minimum is None:
            raise ZooError(f"{error}; {KEEP}") from None
        if image_size > minimum:
            near, _ = plan.nearest((image_size, image_size))
            raise ZooError(f"{key}={image_size} does not fit ({error}); use {near}; sizes that fit: {plan.sizes()}") from None
        fits = [stem for stem in VALID["stem"] if plan_of({**model, "stem": stem}).fits(image_size)]
        hint = f"; or set model.stem={fits[0]}" if fits else ""
        raise ZooError(f"{key}={image_size} is below the minimum of {minimum} px ({error}){hint}") from None
    plan.walk((image_size, image_size), run=True)
