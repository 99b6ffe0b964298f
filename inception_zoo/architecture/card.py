"""The card: the description of a network that checkpoints, safetensors and exported files store with its weights."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from inception_zoo.architecture.choices import Choices
from inception_zoo.architecture.decision import Decision
from inception_zoo.architecture.plan import Plan
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.architecture.variants import BLOCKS, REDUCTIONS
from inception_zoo.errors import ZooError


@dataclass(frozen=True)
class Provenance:
    """The origin of weights."""

    source: str  # as the user gave it, such as `torchvision:IMAGENET1K_V1`, or a path
    layout: str
    sha256: str | None = None  # of the file
    url: str | None = None
    licence: str | None = None
    accuracy: Mapping[str, float] | None = None  # published, percent
    notes: Sequence[str] = ()  # what was adapted, re-initialized or left out
    origin: Mapping[str, Any] | None = None  # the provenance that the file itself records

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Provenance":
        """Create from the dictionaries and lists of an untrusted file.

        Raises:
            TypeError: A value has the wrong type, or a key is unknown.
            KeyError: A required key is missing.
        """
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
    """The information needed to rebuild a network and to use it."""

    model: Mapping[str, Any]  # the arguments of `create_model`
    classes: Sequence[str] | None = None
    preprocessing: Preprocessing | None = None
    provenance: Provenance | None = None
    decision: Decision = field(default_factory=Decision)

    def plain(self) -> dict[str, Any]:
        """Return the card as plain containers, as JSON has them. The default decision is left out, as in older cards."""
        preprocessing = self.preprocessing.plain() if self.preprocessing else None
        plain: dict[str, Any] = {"model": dict(self.model), "classes": self.classes, "preprocessing": preprocessing}
        plain |= {"provenance": self.provenance and asdict(self.provenance)}
        plain |= {"decision": self.decision.plain()} if self.decision != Decision() else {}
        return json.loads(json.dumps(plain))

    def text(self) -> str:
        """Return the card as JSON."""
        return json.dumps(self.plain())

    @property
    def foreign_code(self) -> str | None:
        """Import path of a custom block function that building the network would run; None if there is none."""
        known = BLOCKS | REDUCTIONS
        chosen = (self.model.get("blocks") or {}).values()
        return next((choice for choice in chosen if isinstance(choice, str) and choice not in known), None)

    def check_code(self, path: object, trust: bool) -> None:
        """Raise ZooError if the network needs a custom block function and `trust` is False.

        Args:
            path: The card's file, for the message.
            trust: Allow custom code.
        """
        if (code := self.foreign_code) and not trust:
            raise ZooError(f"{path} needs the function {code}, which would run code; if you trust the file, add --trust")

    @classmethod
    def of(cls, plain: Any) -> "Card":
        """Create a card from the dictionaries and lists of an untrusted file.

        Raises:
            ZooError: The containers are not a valid card.
        """
        try:
            model, classes = plain["model"], plain["classes"]
            numbers = model["num_classes"], model["in_channels"]
            right = (
                set(plain) | {"decision"} == {f.name for f in fields(cls)},
                set(model) <= {"name", "num_classes", "in_channels", *(f.name for f in fields(Choices))},
                isinstance(model["name"], str),
                all(isinstance(n, int) and least <= n < 10**7 for n, least in zip(numbers, (0, 1), strict=True)),
                isinstance(model.get("blocks", {}), dict),
                classes is None or (isinstance(classes, list) and len(classes) == numbers[0]),
                all(isinstance(c, str) for c in classes or []),
            )
            if not all(right):
                raise TypeError
            "".join(classes or []).encode("utf-8", "surrogateescape")  # a file name has no other surrogates
            preprocessing = Preprocessing.of(plain["preprocessing"]) if plain["preprocessing"] else None
            provenance = Provenance.of(plain["provenance"]) if plain["provenance"] else None
            decision = Decision.of(plain["decision"], numbers[0]) if "decision" in plain else Decision()
            return cls(model, classes, preprocessing, provenance, decision)
        except (TypeError, KeyError, AttributeError, UnicodeEncodeError):
            raise ZooError("the file's card, which describes its network, is corrupt") from None


def model_arguments(plan: Plan) -> dict[str, Any]:
    """Return the arguments of `create_model` that rebuild `plan`, as plain containers; functions as import paths."""
    choices = {f.name: getattr(plan.choices, f.name) for f in fields(Choices)}
    blocks = {key: _plain_block(choice) for key, choice in choices.pop("blocks").items() if choice is not None}
    shape = {"name": plan.net.name, "num_classes": plan.num_classes, "in_channels": plan.in_channels}
    return {**shape, **choices, "blocks": blocks}


def _plain_block(choice: Any) -> Any:
    if callable(choice):
        return f"{choice.__module__}.{choice.__qualname__}"
    return choice if isinstance(choice, str) else dict(choice) if isinstance(choice, Mapping) else list(choice)
