"""The options of a network: the keys of `create_model` and of Hydra's `model` group.

The facts about a network are in its table (`inception_zoo/architecture/nets`). An unset option takes the table's value.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict, get_args

from inception_zoo.architecture.nets.table import Net
from inception_zoo.architecture.variants import find_variant, is_rows
from inception_zoo.errors import ZooError, did_you_mean, nearest, raise_all, shown

LOADING: dict[str, Any] = {  # options for the initial weights and for running; the architecture does not depend on them
    "weights": None,  # file, run folder or published name; null: random initialization
    "adapt": [],  # allowed differences between the network and the weights, see ADAPT
    "freeze": None,  # freeze up to this endpoint or stage, or `all`
    "compile": False,  # by torch.compile: faster on GPUs after the first steps
    "memory": "plain",  # lean, minimal: save fewer activations for the backward pass and recompute them
}
EXAMPLE = "timm:inception_v4.tf_in1k"  # a published name
ADAPT = {  # allowed differences between the network and the weights that it loads
    "head": "classifiers re-initialized, for other classes; an embedding, too, if the weights have none of this length",
    "input": "another number of image channels",
    "aux": "auxiliary heads re-initialized",
    "blocks": "swapped blocks re-initialized",
}
ALIKE = 0.8  # similarity at which an endpoint is suggested: all of their names are similar; below it they are listed
Adapt = Literal["head", "input", "aux", "blocks"]
Memory = Literal["plain", "lean", "minimal"]
Norm = Literal["none", "lrn", "batch", "group"]
Stem = Literal["imagenet", "medium", "small"]
Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "mish", "hardswish"]
Init = Literal["he", "xavier"]
Head = Literal["linear", "embedding"]
Blocks = Mapping[str, str | Sequence[str] | Mapping[str, Any] | Callable[[int, int, Any], Any] | None]
MEMORY = get_args(Memory)
VALID = {"norm": get_args(Norm), "stem": get_args(Stem), "activation": get_args(Activation)}
VALID |= {"head": get_args(Head), "init": get_args(Init)}


class Options(TypedDict, total=False):
    """The fields of `Choices` as keyword arguments, for `create_model`. None takes the table's value."""

    blocks: Blocks | None
    aux: bool | None
    norm: Norm | None
    stem: Stem | None
    width: float | None
    activation: Activation | None
    dropout: float | None
    head: Head | None
    embedding: int | None
    drop_path: float | None
    residual_scale: float | None
    init: Init | None


@dataclass(frozen=True)
class Choices:
    """The architecture options of a network. They can be combined freely; `mistakes` checks the values."""

    blocks: Blocks = field(default_factory=dict)  # endpoint, stage or `all` → variant or rows
    aux: bool | None = None  # auxiliary heads
    norm: Norm | None = None  # after every convolution; `lrn`: only where the table has it
    stem: Stem = "imagenet"  # `medium`: half the stride, for 28 px and more; `small`: a quarter
    width: float = 1.0  # factor for the channels of every block; the products are rounded to multiples of 8
    activation: Activation = "relu"
    dropout: float | None = None  # before the classifier
    head: Head | None = None  # `embedding`: a linear layer and BatchNorm between the pooled features and the classifier
    embedding: int | None = None  # length of the embedding; None: 512
    drop_path: float = 0.0  # rate of the last residual block; it rises linearly from the first to the last
    residual_scale: float | None = None  # scale of every residual sum
    init: Init = "he"  # or `xavier`, as in the tutorial

    @classmethod
    def of(cls, net: Net, chosen: Mapping[str, Any]) -> "Choices":
        """Return the chosen values, and the table's values for the other options.

        Raises:
            ZooError: Values are invalid or options are unknown; the message names all of them.
        """
        choices, mistakes = cls._read(net, chosen)
        raise_all(f"{net.name}: {mistake}" for mistake in mistakes)
        return choices

    @classmethod
    def mistakes(cls, net: Net, chosen: Mapping[str, Any]) -> list[str]:
        """Return an error message for each invalid value or unknown option; it begins with the key."""
        return cls._read(net, chosen)[1]

    @classmethod
    def _read(cls, net: Net, chosen: Mapping[str, Any]) -> tuple["Choices", list[str]]:
        names = [f.name for f in fields(cls)]
        unknown = [f"{key} is not an option; {did_you_mean(key, [*names, *LOADING])}" for key in chosen if key not in names]
        given = {key: value for key, value in chosen.items() if key in names and value is not None}
        choices = cls(**{**table_config(net), "blocks": {}, **given})
        return choices, unknown or list(choices._mistakes(net))

    def _mistakes(self, net: Net) -> Iterator[str]:
        for key, valid in VALID.items():
            value = getattr(self, key)
            if value not in valid:
                near = nearest(value, valid)
                hint = f"; did you mean '{near}'?" if near else ""
                yield f"{key}={shown(value)} must be one of {', '.join(valid)}{hint}"
        if not _is_number(self.width) or not 0 < self.width <= 16:
            yield f"width={shown(self.width)} must be a number above 0, at most 16"
        for key in ("dropout", "drop_path"):
            value = getattr(self, key)
            if not _is_number(value) or not 0 <= value < 1:
                yield f"{key}={shown(value)} must be a number from 0 to below 1"
        if self.embedding is not None and self.head == "linear":
            yield f"embedding={shown(self.embedding)} needs head=embedding"
        elif self.embedding is not None and not (_is_number(self.embedding) and self.embedding in range(1, 10**5 + 1)):
            yield f"embedding={shown(self.embedding)} must be a whole number above 0, at most 100000"
        if self.residual_scale is not None and not _is_scale(self.residual_scale):
            yield f"residual_scale={shown(self.residual_scale)} must be a number above 0, at most 1"
        if not isinstance(self.aux, bool):
            yield f"aux={shown(self.aux)} must be true or false"
        elif self.aux and not net.aux:
            yield "aux=true: this network has no auxiliary head; remove aux"
        if not isinstance(self.blocks, Mapping):
            yield f"blocks={shown(self.blocks)} must map stages or endpoints to variants or rows"
            return
        for key, choice in self.blocks.items():
            if key not in net.names:
                yield f"blocks.{shown(key)} is not a stage or endpoint; {did_you_mean(key, net.names, ALIKE)}"
                continue
            try:
                _check_block(choice)
            except ZooError as error:
                yield f"blocks.{key}={shown(choice)}: {error}"


SWITCHES = ("relu", "shortcut", "project")  # fields of `Residual` that are true or false


def _check_block(choice: Any) -> None:
    """Raise ZooError unless `choice` is a variant, a function, rows, or the fields of a residual block."""
    if isinstance(choice, str):
        find_variant(choice)
    elif isinstance(choice, Mapping):
        if not {"rows", "scale"} <= set(choice) <= {"rows", "scale", *SWITCHES}:
            keys = ", ".join(map(shown, choice))
            raise ZooError(f"a residual block needs rows and scale, and optionally {', '.join(SWITCHES)}; it has {keys}")
        if not is_rows(choice["rows"]):
            raise ZooError("rows must be a list of rows, like ['1x1 64']")
        if not _is_scale(choice["scale"]):
            raise ZooError(f"scale={choice['scale']} must be a number above 0, at most 1")
        for key in SWITCHES:
            if not isinstance(choice.get(key, True), bool):
                raise ZooError(f"{key}={choice[key]} must be true or false")
    elif callable(choice) and not hasattr(choice, "__qualname__"):  # functools.partial: a card stores a path
        raise ZooError("must be a function or a class, which has an import path; write a function that returns it")
    elif choice is not None and not callable(choice) and not is_rows(choice):
        raise ZooError("must be a variant or a list of rows, like ['1x1 64']")


def table_config(net: Net) -> dict[str, Any]:
    """Return the keys that a network's table adds to conf/model/base.yaml: its defaults, and each stage and endpoint."""
    head = "embedding" if net.embedding else "linear"
    return {"aux": bool(net.aux), "norm": net.norm, "dropout": net.dropout, "head": head, "blocks": dict.fromkeys(net.names)}


def check_loading(net: Net, **loading: Any) -> None:
    """Raise ZooError if options of `LOADING` are invalid. The weights are not read."""
    raise_all(f"{net.name}: {mistake}" for mistake in loading_mistakes(net, **loading))


def loading_mistakes(net: Net, weights: Any, adapt: Any, freeze: Any, compile: Any, memory: Any) -> Iterator[str]:
    """Yield an error message for each invalid option of `LOADING`; it begins with the key."""
    if weights is not None and (not isinstance(weights, str) or not weights):
        yield f"weights={shown(weights)} must be a file, a run folder, or a name such as {EXAMPLE}"
    if not isinstance(adapt, Sequence) or isinstance(adapt, str):
        yield f"adapt={shown(adapt)} must be a list of {', '.join(ADAPT)}"
    else:
        unknown = [part for part in adapt if not isinstance(part, str) or part not in ADAPT]
        for part in unknown:
            yield f"adapt={shown(part)} is unknown; {did_you_mean(part, ADAPT)}"
        if adapt and not unknown and weights is None:
            yield f"adapt={','.join(adapt)}: there are no weights to adapt; set weights"
    if not isinstance(compile, bool):
        yield f"compile={shown(compile)} must be true or false"
    if memory not in MEMORY:
        yield f"memory={shown(memory)} is unknown; {did_you_mean(memory, MEMORY)}"
    elif compile is True and memory != "plain":
        yield f"memory={memory} cannot be combined with compile=true, which chooses the saved activations itself; remove one"
    if freeze is not None and freeze not in net.names:
        yield f"freeze={shown(freeze)} is not a stage, an endpoint or all; {did_you_mean(freeze, net.names, ALIKE)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_scale(value: Any) -> bool:
    return _is_number(value) and 0 < value <= 1
