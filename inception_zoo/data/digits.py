"""scikit-learn's handwritten digits: 1,797 real 8x8 images. They come with scikit-learn, without a download."""

import torch
from sklearn.datasets import load_digits

from inception_zoo.data.source import Images, Source


def digits() -> Source:
    """Load the digits; every fifth image is in the test split.

    Returns:
        The data set: images uint8 (N, 1, 8, 8), labels int64 (N,).
    """
    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    every = Images(pixels, torch.from_numpy(bunch.target).long())
    is_test = torch.arange(len(every)) % 5 == 4
    return Source("digits", every[~is_test], every[is_test], [str(name) for name in bunch.target_names])
