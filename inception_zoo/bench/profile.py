"""Where a training step goes: time, bytes and calls by kind of operation, for our networks and their tuned peers."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from inception_zoo.architecture.cost import plan_cost
from inception_zoo.bench.contenders import Case, case_of, contenders, device, fast_precision
from inception_zoo.bench.machine import bandwidth, gemm_peak
from inception_zoo.bench.options import Options
from inception_zoo.bench.tables import BYTES, CALLS, STEP, TIME
from inception_zoo.bench.turns import Figure, Measured
from inception_zoo.errors import ZooError
from inception_zoo.network import kernels
from inception_zoo.system.records import write_json

FORWARD, INPUT, WEIGHT = PRODUCTS = ("convolution", "input gradient", "weight gradient")
LAYOUT, CASTS, OTHER, REST = "layout changes", "casts", "other operators", "Python and calls"
OPERATORS = {  # kind → operators of PyTorch and of our kernels, without overload
    FORWARD: "convolution _convolution_pointwise addmm",  # the classifier counts, too
    WEIGHT: "mm",  # of the classifier, and of 1x1 convolutions in our networks
    "BatchNorm and ReLU": (
        "native_batch_norm native_batch_norm_backward relu relu_ threshold_backward batch_norm normalize batch_norm_backward"
    ),
    "pools": (
        "max_pool2d_with_indices max_pool2d_with_indices_backward avg_pool2d avg_pool2d_backward mean max_pool "
        "max_pool_backward average_pool average_pool_backward"
    ),
    "concatenation": "cat",
    "sums": "add add_",
    "optimizer": "_fused_sgd_",
}
KINDS = (*PRODUCTS, LAYOUT, CASTS, *(kind for kind in OPERATORS if kind not in PRODUCTS), OTHER, REST)
UNLIMITED = (LAYOUT, REST)  # the bytes of oneDNN's reorders are not known
KIND_OF = {operator: kind for kind, operators in OPERATORS.items() for operator in operators.split()}
USUAL = "inception_v3", "googlenet_bn"
ALLOCATIONS = ("empty", "new_empty")  # operators that read and write nothing
PRIMITIVES = {"forward": FORWARD, "backward_data": INPUT, "backward_weights": WEIGHT}


@dataclass
class Call:
    """One call of an operator: its kind, the seconds since the epoch at start and end, and the bytes of its tensors."""

    kind: str
    start: float
    end: float
    moved: int


class Watch(TorchDispatchMode):
    """Record the calls of PyTorch's operators and of our kernels, except those that only allocate or make a view."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._timed(func.overloadpacket.__name__, lambda: func(*args, **(kwargs or {})), args)

    def kernel(self, call: Callable[..., None]) -> Callable[..., None]:
        """Return `kernels.call`, observed."""
        return lambda name, dtype, *arguments: self._timed(name, lambda: call(name, dtype, *arguments), arguments)

    def _timed(self, name: str, work: Callable[[], Any], args: Sequence[Any]) -> Any:
        start = time.time()
        result = work()
        end = time.time()
        inputs, outputs = tensors(args), tensors(result)
        if name == "_fused_sgd_":  # it returns nothing, and writes the weights and their momentum
            outputs = tensors(args[0]) + tensors(args[2])
        if name.startswith(ALLOCATIONS) or (
            outputs and not name.endswith("_") and all(_is_view(each, inputs) for each in outputs)
        ):
            return result
        if name == "convolution_backward":
            self._backward(args, start, end)
        else:
            kind, read = kind_of(name, inputs, outputs), inputs[1:] if name == "copy_" else inputs
            self.calls.append(Call(kind, start, end, size(read + outputs)))
        return result

    def _backward(self, args: Sequence[Any], start: float, end: float) -> None:
        """Record the gradients of a convolution as two calls; the time is divided later, see `divided`."""
        g, x, w = args[:3]
        wanted = [each for each, need in zip(((INPUT, x), (WEIGHT, w)), args[-1], strict=False) if need]
        for number, (kind, result) in enumerate(wanted):
            read = w if kind == INPUT else x
            self.calls.append(Call(kind, start, end if number == 0 else start, size([g, read, result])))


def tensors(values: Any) -> list[Tensor]:
    """Return the tensors in nested lists and tuples."""
    if isinstance(values, list | tuple):
        return [each for value in values for each in tensors(value)]
    return [values] if isinstance(values, Tensor) else []


def size(found: Sequence[Tensor]) -> int:
    """Return the bytes of tensors; one that appears twice is read or written twice."""
    return sum(each.numel() * each.element_size() for each in found)


def kind_of(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> str:
    """Return the kind of an operator's call.

    Args:
        name: name of the operator, without namespace and overload.
        inputs: tensors that it reads.
        outputs: tensors that it returns.
    """
    if name in ("copy_", "_to_copy", "clone", "contiguous"):
        target, source = (inputs[0], inputs[-1]) if name == "copy_" else (outputs[0], inputs[0])
        if target.dtype != source.dtype:
            return CASTS
        return LAYOUT if target.stride() != source.stride() else OTHER
    return KIND_OF.get(name, OTHER)


def _is_view(output: Tensor, inputs: Sequence[Tensor]) -> bool:
    pointer = output.untyped_storage().data_ptr()
    return any(each.untyped_storage().data_ptr() == pointer for each in inputs)


@dataclass
class Primitive:
    """A line of oneDNN's log: what it computed, from which second since the epoch on, and for how long."""

    kind: str | None
    at: float
    seconds: float


def primitives(log: str) -> Iterator[Primitive]:
    """Yield the primitives that oneDNN's log says were executed: convolutions, and reorders of a memory format."""
    for line in log.splitlines():
        # onednn_verbose,v1,TIME,primitive,exec,cpu,convolution,IMPLEMENTATION,PROPAGATION,FORMATS,…,MILLISECONDS
        words = line.split(",")
        if line.startswith("onednn_verbose") and "exec" in words:
            name, way = words[words.index("exec") + 2], words[words.index("exec") + 4]
            kind = next((kind for start, kind in reversed(PRIMITIVES.items()) if way.startswith(start)), None)
            yield Primitive(LAYOUT if name == "reorder" else kind, float(words[2]) / 1e3, float(words[-1]) / 1e3)


def divided(calls: Sequence[Call], found: Sequence[Primitive]) -> dict[str, float]:
    """Return the seconds by kind.

    The time of a convolution's call is divided by the primitives that ran in it: a reorder is a layout change, and what no
    primitive took counts as `REST`.
    """
    seconds: dict[str, float] = defaultdict(float)
    left = iter(sorted(found, key=lambda each: each.at))
    primitive = next(left, None)
    for call in calls:
        while primitive and primitive.at < call.start:
            primitive = next(left, None)
        if call.kind not in PRODUCTS:
            seconds[call.kind] += call.end - call.start
            continue
        inside = 0.0
        while primitive and primitive.at < call.end:
            seconds[primitive.kind or call.kind] += primitive.seconds
            inside += primitive.seconds
            primitive = next(left, None)
        # without primitives (fp32 matrix products are not oneDNN's) the whole call is of its kind
        seconds[REST if inside else call.kind] += call.end - call.start - inside
    return seconds


def measure(options: Options) -> Measured:
    """Measure ``profile/NETWORK KIND/CONTENDER`` in s/image, and the bytes and calls of each kind.

    Raises:
        ZooError: this machine has a GPU, where operators do not end when their call returns; or the measuring process failed.
    """
    if device().type != "cpu":
        raise ZooError("profile measures CPUs; on a GPU, use torch.profiler: run.py +trainer.profiler=pytorch")
    for name, case in replace(options, networks=options.networks or USUAL).cases().items():
        for label, rounds in _profiled(case, options.rounds).items():
            yield from _figures(f"profile/{name}", case, label, rounds)


def _figures(prefix: str, case: Case, label: str, rounds: Sequence[dict[str, Any]]) -> Measured:
    peak = statistics.median(each["peak"] for each in rounds)
    flops = 2 * plan_cost(case.plan, case.image_size).macs / peak
    yield f"{prefix} {STEP}/{label}", Figure(TIME, [each["seconds"] / case.batch for each in rounds])
    for kind in KINDS:
        values = [each["kinds"].get(kind, 0.0) / case.batch for each in rounds]
        moved, calls = (rounds[0][key].get(kind, 0) for key in ("moved", "calls"))
        limit, seconds = max(flops if kind in PRODUCTS else 0.0, moved / case.batch / bandwidth()), Figure(TIME, values).median
        limited = limit and seconds and kind not in UNLIMITED
        yield f"{prefix} {kind}/{label}", Figure(TIME, values, limit / seconds if limited else None)
        if kind not in UNLIMITED:
            yield f"{prefix} {kind}{BYTES}/{label}", Figure("bytes/image", [moved / case.batch])
            yield f"{prefix} {kind}{CALLS}/{label}", Figure("calls/step", [calls])


def _profiled(case: Case, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Return the measurements of each contender, one per round, from a new process: oneDNN reads its settings at the start."""
    with TemporaryDirectory(prefix="inception_zoo_bench_") as folder:
        place = Path(folder) / "calls.json"
        words = {"name": case.name, "batch": case.batch, "image_size": case.image_size, "rounds": rounds, "place": str(place)}
        command = [sys.executable, "-m", __name__, json.dumps(words)]
        environment = {**os.environ, "ONEDNN_VERBOSE": "1", "ONEDNN_VERBOSE_TIMESTAMP": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise ZooError(f"profile {case.name}: {(done.stderr.strip() or 'killed').splitlines()[-1]}")
        every = list(primitives(done.stdout))
        return {label: [_by_kind(each, every) for each in rounds] for label, rounds in json.loads(place.read_text()).items()}


def _by_kind(measured: dict[str, Any], every: Sequence[Primitive]) -> dict[str, Any]:
    calls = [Call(*each) for each in measured["calls"]]
    own = [each for each in every if calls[0].start <= each.at <= calls[-1].end]
    kinds = divided(calls, own)
    kinds[REST] += measured["seconds"] - sum(kinds.values())
    moved: Counter[str] = Counter()
    for call in calls:
        moved[call.kind] += call.moved
    counts = Counter(call.kind for call in calls)
    return {"seconds": measured["seconds"], "peak": measured["peak"], "kinds": kinds, "moved": moved, "calls": counts}


def observed(turn: Callable[[], float]) -> list[Call]:
    """Run a training step and return the calls of its operators, in order."""
    with Watch() as watch, patch.object(kernels, "call", watch.kernel(kernels.call)):
        turn()
    return watch.calls


def _child(name: str, batch: int, image_size: int, rounds: int, place: str) -> None:
    case = case_of(name, batch, image_size)
    steps = {each.label: each.trains(case) for each in contenders(case) if each.tuned}
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number in range(rounds + 1):
        for label, step in steps.items():
            start = time.perf_counter()
            step()
            seconds = time.perf_counter() - start
            calls, peak = observed(step), gemm_peak.__wrapped__(fast_precision())  # the machine's speed now
            if number:  # the first round warms up
                plain = [(call.kind, call.start, call.end, call.moved) for call in calls]
                found[label].append({"seconds": seconds, "peak": peak, "calls": plain})
    write_json(Path(place), found)


if __name__ == "__main__":
    _child(**json.loads(sys.argv[1]))
