"""The rule by which logits become probabilities and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

LOGGED = ("auroc", "ap", "sensitivity", "specificity", "f1", "balanced_accuracy", "kappa", "brier")  # metrics for decisions
MANY = 100  # largest number of classes for which they are computed, with one label for each image


@dataclass(frozen=True)
class Decision:
    """The rule by which logits become probabilities and labels; the default is softmax and the most probable label.

    Attributes:
        several: Images have any number of labels. The probabilities are then sigmoids instead of the softmax.
        temperature: Divisor of the logits, which calibrates the probabilities.
        thresholds: Of the classes, each between 0 and 1. With several labels, a label is predicted if its probability reaches
            the threshold; otherwise, the label with the largest ratio of probability to threshold. None: 0.5, and the most
            probable label.
    """

    several: bool = False
    temperature: float = 1.0
    thresholds: Sequence[float] | None = None

    def plain(self) -> dict[str, Any]:
        """Return the rule as plain containers."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any], classes: int) -> "Decision":
        """Create from the containers of an untrusted file.

        Args:
            plain: The containers.
            classes: Number of classes of the network.

        Raises:
            TypeError: A value has the wrong type or range, or a key is unknown.
            KeyError: A key is missing.
        """
        several, temperature, thresholds = plain["several"], plain["temperature"], plain["thresholds"]
        right = (
            set(plain) == {"several", "temperature", "thresholds"},
            isinstance(several, bool),
            isinstance(temperature, float) and 0 < temperature < 1e6,
            thresholds is None or isinstance(thresholds, list),
            thresholds is None or len(thresholds) == classes,
            all(isinstance(each, float) and 0 < each < 1 for each in thresholds or []),
        )
        if not all(right):
            raise TypeError
        return cls(several, temperature, thresholds)
