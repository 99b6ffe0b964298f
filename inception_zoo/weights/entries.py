"""The state dict to load, among all that a training saved in one file."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from inception_zoo.errors import ZooError

# Names of the network in a checkpoint:
USUAL = ("state_dict", "model", "model_state_dict", "module", "network", "net")
AVERAGE = {"ema", "swa", "avg", "average", "averaged", "shadow", "polyak"}  # words in its name
OPTIMIZER = {"optim", "optimizer", "optimizers", "optimiser"}  # likewise; it may have averages of gradients
# Of DDP, torch.compile, Lightning modules and EMA wrappers:
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "online_model.")
COUNTERS = {"n_averaged", "initted", "step", "steps", "num_updates"}  # of averages, beside their tensors
# Two libraries store the average as the network, and the raw weights under another name: (sign of it, average, raw).
SWAPPED = (
    ("current_model_state", "state_dict", "current_model_state"),  # Lightning's WeightAveraging
    ("message_hub", "state_dict", "ema_state_dict"),  # MMEngine's EMAHook
)
CONVERT = "model.weights has no such option: run `inception-zoo convert` with it first"


@dataclass(frozen=True)
class Entry:
    """A state dict of a checkpoint."""

    state: dict[str, Tensor]  # without prefixes that all keys share
    average: bool
    holder: Any = None  # the mapping in the file, which may state more about its tensors
    named: bool = True  # False: its keys are not those of a state dict, as in a list of parameters


def chosen(content: Mapping[Any, Any], source: str, ema: bool | None) -> tuple[Entry, list[str]]:
    """Return the state dict to load, and notes on the choice.

    Args:
        content: a state dict, or a checkpoint that contains state dicts at any depth.
        source: name of the weights for messages.
        ema: True: averaged weights; False: raw weights; None: as the content decides.

    Raises:
        ZooError: the content does not decide, or does not have what `ema` asks for.
    """
    entries = _entries(content)
    raws = [name for name, entry in entries.items() if entry.named and not entry.average]
    raw = next((name for name in USUAL if name in raws), raws[0] if len(raws) == 1 else None)
    rivals = [name for name in raws if raw is None or name in USUAL or _alike(entries[name], entries[raw])]
    averages = _averages(entries, raw)
    if len(rivals) > 1 and not (ema and len(averages) == 1):
        raise ZooError(f"{source} contains several state dicts: {_quoted(rivals)}; save the right one alone in a file")
    if raw is not None and averages and ema is None:
        both = f"raw weights ({_quoted([raw])}) and averaged ones ({_quoted(averages)})"
        raise ZooError(f"{source} contains {both}; give --ema or --no-ema (in Python ema=True or ema=False); {CONVERT}")
    if ema and not averages:
        raise ZooError(f"ema=True: {source} contains no averaged weights; leave --ema out")
    if ema is False and averages and raw is None:
        raise ZooError(f"ema=False: {source} contains averaged weights only ({_quoted(averages)}); leave --no-ema out")
    name = averages[0] if averages and ema is not False else raw
    if name is None:
        return Entry({key: value for key, value in content.items() if isinstance(value, Tensor)}, False, content), []
    if entries[name].average and len(averages) > 1:
        raise ZooError(f"{source} contains several averages: {_quoted(averages)}; save the right one alone in a file")
    keys = entries[raw if raw is not None else name].state.keys()
    if not entries[name].named or not keys & entries[name].state.keys():
        fix = "save it as a state dict" if raw is None else "give --no-ema"
        raise ZooError(f"{source} has its average in {_quoted([name])} without the network's names of tensors; {fix}")
    left = [other for other, entry in entries.items() if other != name and (entry.named or other in averages)]
    kind = ", averaged weights" if entries[name].average else ", raw weights" if averages else ""
    notes = [f"read {_quoted([name])}{kind}"] if name or left else []
    notes += [f"not read: {_quoted(left)}"] if left else []
    first, value = next(iter(entries[name].state.items()), ("", None))
    full = next((str(key) for key, each in entries[name].holder.items() if each is value and str(key).endswith(first)), first)
    prefix = full.removesuffix(first)
    return entries[name], notes + ([f"prefix {prefix!r} of its names of tensors removed"] if prefix else [])


def _averages(entries: Mapping[str, Entry], raw: str | None) -> list[str]:
    """Return the averages of the network.

    Tensors without its names are one if they are like the raw or the averaged state dict. A candidate whose own name denotes
    an average comes first; the others count only if there is none.
    """
    named = [name for name, entry in entries.items() if entry.named and entry.average]
    named = [name for name in named if raw is None or _alike(entries[name], entries[raw])]
    network = raw if raw is not None else next(iter(named), None)
    others = [n for n, e in entries.items() if not e.named and (e.average if network is None else _alike(e, entries[network]))]
    return named + [name for name in others if entries[name].average] or others


def _entries(content: Mapping[Any, Any]) -> dict[str, Entry]:
    """Return the state dicts of a checkpoint by their path; the path of the content itself is empty."""
    found: dict[str, Entry] = {}
    entered: set[int] = set()  # a pickle may contain itself
    todo: list[tuple[str, Any]] = [("", content)]
    for path, node in todo:
        values = node.items() if isinstance(node, Mapping) else enumerate(node)
        tensors = {key: value for key, value in values if isinstance(value, Tensor)}
        named = {key: value for key, value in tensors.items() if isinstance(key, str)}
        if any("." in key for key in named) or (named and path in USUAL):
            found |= _split(path, named, node)
        elif arrays := {str(key): value for key, value in tensors.items() if value.ndim}:
            found[path] = Entry(arrays, _has(AVERAGE, path), named=False)
        if isinstance(node, Mapping) and id(node) not in entered:
            entered.add(id(node))
            nested = {str(key): value for key, value in node.items() if isinstance(value, Mapping | list | tuple)}
            todo += [(f"{path}.{key}" if path else key, v) for key, v in nested.items() if not _has(OPTIMIZER, key)]
    for sign, average, raw in SWAPPED:
        if sign in content and {average, raw} <= found.keys():
            found |= {average: replace(found[average], average=True), raw: replace(found[raw], average=False)}
    return found


def _split(path: str, tensors: dict[str, Tensor], holder: object) -> dict[str, Entry]:
    """Return a network, and an average that is a module beside it or around it, as entries of their own."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in _unwrapped(tensors).items():
        first, _, rest = key.partition(".")
        is_average = bool(rest) and _has(AVERAGE, first)
        parts.setdefault(first if is_average else "", {})[rest if is_average else key] = value
    paths = {part: ".".join(filter(None, (path, part))) for part in parts}
    return {paths[part]: Entry(_unwrapped(state), _has(AVERAGE, paths[part]), holder) for part, state in parts.items()}


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove counters of averages, and each prefix that all keys share because a module wraps the network."""
    state = {key: value for key, value in state.items() if key not in COUNTERS}
    while state and (prefix := next((each for each in WRAPPERS if all(key.startswith(each) for key in state)), None)):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _has(words: set[str], name: str) -> bool:
    """Return True if one of the words is in a name such as `model_ema`, `modelEMA` or `EMAModel`."""
    return any(word.lower() in words for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name))


def _alike(one: Entry, other: Entry) -> bool:
    """Return True if `one` has the network of the state dict `other`, raw or averaged: by its names, or else by its shapes."""
    if one.named and 2 * len(one.state.keys() & other.state.keys()) > min(len(one.state), len(other.state)):
        return True
    values, all_values = (sum(value.numel() for value in entry.state.values()) for entry in (one, other))
    shapes, all_shapes = (Counter(value.shape for value in entry.state.values()) for entry in (one, other))
    is_flat = one.average and not one.named  # an average may be one vector
    return 2 * values >= all_values and (is_flat or shapes <= all_shapes)


def _quoted(names: Iterable[str]) -> str:
    names = [repr(name[:60]) if name else "the tensors at the top" for name in names]
    return ", ".join(names[:6]) + (f", and {len(names) - 6} more" if len(names) > 6 else "")
