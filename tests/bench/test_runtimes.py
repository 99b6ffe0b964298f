"""`inception-zoo bench serving`: the runtimes compute the same network. Its timings are not tested."""

import pytest
import torch

from inception_zoo.bench import runtimes
from inception_zoo.bench.contenders import case_of
from inception_zoo.bench.options import Options


def test_every_runtime_serves_the_network_that_it_names(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)  # it takes minutes
    case, logits = case_of("googlenet_bn", 3, 64), {}
    for label, serve in runtimes._runtimes(case, tmp_path):
        with torch.inference_mode():
            logits[label] = serve(case.images().contiguous(memory_format=torch.channels_last)).float()
    assert all(each.shape == (3, 1000) and each.isfinite().all() for each in logits.values())
    ours = logits["inception_zoo onnxruntime"]
    for label, tolerance in (("inception_zoo", 0.05), ("inception_zoo fp32", 1e-4)):
        if label in logits:  # where bf16 is not fast, ours is fp32 already
            assert (logits[label] - ours).abs().max() <= tolerance * ours.abs().max()
    theirs = logits["torchvision onnxruntime"]
    assert (logits["torchvision tuned"] - theirs).abs().max() <= 0.05 * theirs.abs().max()
    assert torch.equal(logits["torchvision compiled"], logits["torchvision tuned"])


def test_latency_is_of_the_timed_calls(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr("inception_zoo.bench.runtimes.time.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(runtimes, "_runtimes", lambda case, folder: iter([("inception_zoo", len), ("peer", len)]))
    figures = dict(runtimes.measure(Options(rounds=2, networks=("googlenet_bn",))))
    assert figures["serving/googlenet_bn batch 32/peer"].values == [32.0, 32.0]
    assert figures["serving/googlenet_bn batch 1, latency p99/inception_zoo"].values == [1.0]
    assert len(figures) == 8


@pytest.mark.slow
def test_a_compiled_network_computes_the_same(tmp_path):
    case = case_of("googlenet_bn", 2, 64)
    found = dict(runtimes._runtimes(case, tmp_path))
    images = case.images().contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        compiled, tuned = (found[f"torchvision {how}"](images).float() for how in ("compiled", "tuned"))
    assert (compiled - tuned).abs().max() <= 0.05 * tuned.abs().max()
