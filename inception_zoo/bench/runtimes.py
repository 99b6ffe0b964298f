"""Runtimes that can serve a network: latency and throughput of this package, onnxruntime and compiled public networks."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.bench.contenders import OURS, Case, Contender, case_of, device, fast_precision
from inception_zoo.bench.options import Options
from inception_zoo.bench.tables import TIME
from inception_zoo.bench.turns import Figure, Measured, in_turns
from inception_zoo.errors import ZooError
from inception_zoo.network import kernels
from inception_zoo.network.inception import Inception
from inception_zoo.serving import export, quantize
from inception_zoo.serving.folding import fuse
from inception_zoo.system.terminal import tell

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no processes that outlive the compilation

USUAL = "inception_v3", "googlenet_bn"
CALLS = {1: 30, 32: 1}  # batch → calls of a turn
PERCENTILES = {"p50": 50, "p99": 99}
Serve = Callable[[Tensor], object]  # images in fp32 (N, C, S, S), channels_last → logits


def measure(options: Options) -> Measured:
    """Measure ``serving/NETWORK batch N/RUNTIME`` in images/s, and for batch 1 the percentiles of the latency.

    Raises:
        ZooError: this machine has a GPU: the runtimes that are compared are those for CPUs.
    """
    if device().type != "cpu":
        raise ZooError("serving compares runtimes for CPUs; hide the GPU: CUDA_VISIBLE_DEVICES= inception-zoo bench serving")
    for name in options.networks or USUAL:
        with TemporaryDirectory() as folder:
            for batch, calls in CALLS.items():
                yield from _of_batch(replace(case_of(name), batch=batch), calls, options.rounds, Path(folder))


def _of_batch(case: Case, calls: int, rounds: int, folder: Path) -> Measured:
    images, group = case.images().contiguous(memory_format=torch.channels_last), f"serving/{case.name} batch {case.batch}"
    times: dict[str, list[float]] = {}
    turns = {}
    for label, serve in _runtimes(case, folder):
        times[label] = []
        turns[label] = partial(_turn, serve, images, calls, times[label])
    for label, values in in_turns(turns, rounds).items():
        yield f"{group}/{label}", Figure("images/s", values)
    if case.batch == 1:
        for what, percent in PERCENTILES.items():
            for label, taken in times.items():
                value = statistics.quantiles(taken[calls:], n=100, method="inclusive")[percent - 1]  # without the warm-up
                yield f"{group}, latency {what}/{label}", Figure(TIME, [value])


@torch.inference_mode()
def _turn(serve: Serve, images: Tensor, calls: int, times: list[float]) -> float:
    for _ in range(calls):
        start = time.perf_counter()
        serve(images)
        times.append(time.perf_counter() - start)
    return len(images) * calls / sum(times[-calls:])


def _runtimes(case: Case, folder: Path) -> Iterator[tuple[str, Serve]]:
    """Yield (label, function that serves a batch): ours in every precision, then the public networks at their best settings."""
    model, fast = Inception(case.plan).eval(), fast_precision()
    yield OURS, _at(fuse(model, fast), fast)
    if fast != torch.float32:
        yield f"{OURS} fp32", _at(fuse(model, torch.float32), torch.float32)
    yield f"{OURS} onnxruntime", _onnx(_exported(model, case, folder))
    yield f"{OURS} onnxruntime int8", _onnx(_quantized(model, case, folder))
    for library in case.peers:
        peer = Contender(library).build(case).eval().requires_grad_(False)
        yield f"{library} onnxruntime", _onnx(_peer_exported(peer, case, folder / f"{case.name}-{library}.onnx"))
        peer = peer.to(fast)
        yield f"{library} tuned", _at(peer, fast)
        if kernels.find_compiler():
            yield f"{library} compiled", _at(torch.compile(peer, dynamic=False, options={"freezing": True}), fast)
        else:
            tell(f"no C++ compiler found: leaving out '{library} compiled'")


def _at(model: Callable[[Tensor], object], dtype: torch.dtype) -> Serve:
    return lambda images: model(images.to(dtype))


def _onnx(path: Path) -> Serve:
    session = export.open_onnx(path)
    return lambda images: export.run_onnx(session, images)


def _exported(model: Inception, case: Case, folder: Path) -> Path:
    path = folder / f"{case.name}.onnx"
    if not path.exists():
        centre = (0.5,) * case.in_channels
        model.preprocessing = Preprocessing(case.image_size, centre, centre, case.image_size)
        export.export_onnx(model, path)
    return path


def _quantized(model: Inception, case: Case, folder: Path) -> Path:
    """Return the int8 file; it is calibrated on random images, since ranges do not change the speed."""
    path = folder / f"{case.name}-int8.onnx"
    if not path.exists():
        quantize.quantize(_exported(model, case, folder), path, iter([(case.images(8), torch.zeros(8, dtype=torch.int64))]))
    return path


def _peer_exported(peer: nn.Module, case: Case, path: Path) -> Path:
    if not path.exists():
        shapes, sample = ({0: torch.export.Dim("batch")},), case.images(2)
        names: dict[str, Any] = {"input_names": [export.INPUT], "output_names": [export.OUTPUT], "opset_version": export.OPSET}
        with export.silence():
            program = torch.onnx.export(peer, (sample,), dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
        assert program is not None
        program.save(path, external_data=False)
    return path
