"""The card: what a network says of itself beside its weights, in checkpoints, safetensors and exported files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from inception_zoo.architecture.choices import Choices
from inception_zoo.architecture.plan import Plan
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.architecture.variants import BLOCKS, REDUCTIONS
from inception_zoo.errors import ZooError


@dataclass(frozen=True)
class Provenance:
    """Where weights came from."""

    source: str  # as the user gave it, such as `torchvision:IMAGENET1K_V1`, or a path
    layout: str
    sha256: str | None = None  # of the file
    url: str | None = None
    licence: str | None = None
    accuracy: Mapping[str, float] | None = None  # published, percent
    notes: Sequence[str] = ()  # what was not taken over as it was
    origin: Mapping[str, Any] | None = None  # what the file says of the provenance of its own weights

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Provenance":
        """From plain containers that a stranger may have written; TypeError if they are none."""
        texts = [plain.get(key) for key in ("sha256", "url", "licence")]
        accuracy, notes, origin = plain.get("accuracy"), plain.get("notes", []), plain.get("origin")
        right = (
            all(isinstance(plain[key], str) for key in ("source", "layout")),
            all(isinstance(text, str | None) for text in texts),
            isinstance(accuracy, dict | None),
            isinstance(notes, list) and all(isinstance(note, str) for note in notes),
            origin is None or bool(cls.of(origin)),
        )
        if not all(right):
            raise TypeError
        return cls(**plain)


@dataclass(frozen=True)
class Card:
    """All that is needed to build a network again and use it."""

    model: Mapping[str, Any]  # the arguments of `create_model`
    classes: Sequence[str] | None = None
    preprocessing: Preprocessing | None = None
    provenance: Provenance | None = None

    def plain(self) -> dict[str, Any]:
        preprocessing = self.preprocessing.plain() if self.preprocessing else None
        plain = {"model": dict(self.model), "classes": self.classes, "preprocessing": preprocessing}
        return json.loads(json.dumps({**plain, "provenance": self.provenance and asdict(self.provenance)}))

    def text(self) -> str:
        return json.dumps(self.plain())

    @property
    def foreign_code(self) -> str | None:
        """A block that is a function of the author's own, which building the network would import and run."""
        known = BLOCKS | REDUCTIONS
        chosen = (self.model.get("blocks") or {}).values()
        return next((choice for choice in chosen if isinstance(choice, str) and choice not in known), None)

    def check_code(self, path: object, trust: bool) -> None:
        """ZooError if the network needs code of the author's own."""
        if (code := self.foreign_code) and not trust:
            raise ZooError(f"{path} needs the function {code}, which would run code; trust it only if it is yours (--trust)")

    @classmethod
    def of(cls, plain: Any) -> "Card":
        """From plain containers that a stranger may have written; ZooError if they are no card."""
        try:
            model, classes = plain["model"], plain["classes"]
            numbers = model["num_classes"], model["in_channels"]
            right = (
                set(plain) == {f.name for f in fields(cls)},
                set(model) <= {"name", "num_classes", "in_channels", *(f.name for f in fields(Choices))},
                isinstance(model["name"], str),
                all(isinstance(n, int) and 0 < n < 10**7 for n in numbers),
                isinstance(model.get("blocks", {}), dict),
                classes is None or (isinstance(classes, list) and len(classes) == numbers[0]),
                all(isinstance(c, str) for c in classes or []),
            )
            if not all(right):
                raise TypeError
            preprocessing = Preprocessing.of(plain["preprocessing"]) if plain["preprocessing"] else None
            return cls(model, classes, preprocessing, Provenance.of(plain["provenance"]) if plain["provenance"] else None)
        except (TypeError, KeyError, AttributeError):
            raise ZooError("the file's card, which says what network it holds, is damaged") from None


def model_arguments(plan: Plan) -> dict[str, Any]:
    """What `create_model` needs to build `plan` again, in plain containers; functions by their import path."""
    choices = {f.name: getattr(plan.choices, f.name) for f in fields(Choices)}
    blocks = {key: _plain_block(choice) for key, choice in choices.pop("blocks").items() if choice is not None}
    shape = {"name": plan.net.name, "num_classes": plan.num_classes, "in_channels": plan.in_channels}
    return {**shape, **choices, "blocks": blocks}


def _plain_block(choice: Any) -> Any:
    if callable(choice):
        return f"{choice.__module__}.{choice.__qualname__}"
    return choice if isinstance(choice, str) else dict(choice) if isinstance(choice, Mapping) else list(choice)
