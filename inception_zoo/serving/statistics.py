"""Mean and covariance of features, and their files, in the format of pytorch-fid."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inception_zoo.errors import ZooError
from inception_zoo.system.atomic_files import whole_file
from inception_zoo.system.regular_files import opened

log = logging.getLogger(__name__)
ABOUT = "inception_zoo"  # key of what statistics depend on; files of pytorch-fid do not have it


class Statistics(NamedTuple):
    """Mean (D,) and covariance (D, D) of features, float64, and the number of images; None: unknown."""

    mean: np.ndarray
    covariance: np.ndarray
    images: int | None

    @classmethod
    def of(cls, features: np.ndarray) -> "Statistics":
        """Compute the statistics of features, float64 (N, D)."""
        return cls(features.mean(0), np.cov(features, rowvar=False), len(features))

    def write(self, path: Path, about: Mapping[str, str]) -> None:
        """Write an `.npz` that pytorch-fid reads, too; `about` has what the statistics depend on."""
        facts = json.dumps({**about, "images": self.images})
        with whole_file(path) as temporary:
            np.savez_compressed(temporary, mu=self.mean, sigma=self.covariance, inception_zoo=np.array(facts))

    @classmethod
    def read(cls, path: Path, features: int, about: Mapping[str, str]) -> "Statistics":
        """Read an `.npz` of this package or of pytorch-fid.

        Args:
            path: The file.
            features: Number of features that are expected.
            about: What the statistics must depend on, if the file says it.

        Raises:
            ZooError: The file is not one of statistics, or they were computed in another way.
        """
        try:
            with opened(path) as whole, np.load(whole, allow_pickle=False) as file:
                mean, covariance = (np.asarray(file[key], np.float64) for key in ("mu", "sigma"))
                facts = dict(json.loads(str(file[ABOUT]))) if ABOUT in file else None
        except FileNotFoundError:
            raise ZooError(f"{path} does not exist") from None
        except ZooError:
            raise
        except Exception as error:  # numpy and zipfile raise many types
            raise ZooError(f"{path} is not a file of statistics, with mu and sigma ({type(error).__name__})") from None
        if mean.shape != (features,) or covariance.shape != (features, features):
            raise ZooError(
                f"{path} has statistics of shape {mean.shape}, {covariance.shape}, but there are {features} features"
            )
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ZooError(f"{path} has values that are NaN or infinite")
        if facts is None:
            log.warning("%s does not state how it was computed; taken as: %s", path, about["like"])
            return cls(mean, covariance, None)
        for key, value in about.items():
            if facts.get(key) != value:
                raise ZooError(f"{path} was computed with {key}={facts.get(key)}, not {value}; compute it again")
        return cls(mean, covariance, facts.get("images"))
