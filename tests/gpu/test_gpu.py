"""Training, evaluation and serving on CUDA devices: `make test-gpu`. Without one, all of it is skipped.

`GPU_TESTS_ON=cpu` runs what is possible on a CPU, to try the tests themselves.
"""

import csv
import math
import os

import pytest
import torch
from conftest import SMALL
from torch.nn import functional as F

from inception_zoo import create_model
from inception_zoo.runs.results import read_results
from inception_zoo.weights.files import load_pickle

DEVICE = os.environ.get("GPU_TESTS_ON", "cuda")
ACCELERATOR = {"cuda": "gpu"}.get(DEVICE, DEVICE)
HAS_ONE = DEVICE == "cpu" or torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HAS_ONE, reason="no CUDA device")]
on_cuda = pytest.mark.skipif(DEVICE != "cuda", reason="about CUDA only")
two_gpus = pytest.mark.skipif(DEVICE == "cuda" and torch.cuda.device_count() < 2, reason="needs two CUDA devices")

JOB = [*SMALL, "logger=csv", f"trainer.accelerator={ACCELERATOR}", "hydra.run.dir=run"]
LONGER = ["trainer.limit_train_batches=8", "trainer.max_epochs=3"]
MEMORY = ["plain", "lean", "minimal"]


def finished(done, folder, name="run"):
    assert done.returncode == 0, done.stdout + done.stderr
    results = read_results(folder / name)
    assert results["state"] == "finished" and math.isfinite(results["test/loss"])
    return results


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "bf16-true"])
def test_a_job_in_each_precision(zoo, tmp_path, precision):
    """With augmentation, mixup and EMA on the device."""
    if precision == "16-mixed" and DEVICE == "cpu":
        pytest.skip("fp16 needs a scaler, which is for GPUs")
    words = ["augmentation=inception", "augmentation.mixup=0.2", "callbacks=ema", "callbacks.ema.decay=0.9"]
    finished(zoo(*JOB, *LONGER, *words, f"trainer.precision={precision}"), tmp_path)


def test_training_learns_the_digits(zoo, tmp_path):
    words = ["trainer.limit_train_batches=1.0", "trainer.max_epochs=8", "trainer.precision=bf16-mixed", "optimizer.lr=0.01"]
    words += ["model.norm=batch", "trainer.limit_val_batches=1.0"]
    results = finished(zoo(*JOB, *words, "trainer.limit_test_batches=1.0"), tmp_path)
    assert results["test/top1"] > 0.8


def test_compiled_training(zoo, tmp_path):
    finished(zoo(*JOB, *LONGER, "model.compile=true", "trainer.precision=32-true"), tmp_path)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_class_weights_and_decisions(zoo, tmp_path, loss):
    words = [f"loss={loss}", "class_weight=balanced", "decision.calibrate=true", "trainer.precision=32-true"]
    results = finished(zoo(*JOB, *LONGER, *words), tmp_path)
    assert "decision" in results and (tmp_path / "run/decisions.csv").is_file()


@pytest.mark.parametrize("way", [("cpu", ACCELERATOR), (ACCELERATOR, "cpu")], ids=["CPU to GPU", "GPU to CPU"])
def test_a_run_is_resumed_on_the_other_device(zoo, tmp_path, way):
    words = [word for word in JOB if not word.startswith("trainer.accelerator")]
    words += ["trainer.precision=32-true", "trainer.limit_train_batches=8"]
    first = zoo(*words, "trainer.max_epochs=1", f"trainer.accelerator={way[0]}")
    assert first.returncode == 0, first.stderr
    again = zoo("ckpt=last", "hydra.run.dir=run", "trainer.max_epochs=2", f"trainer.accelerator={way[1]}")
    assert finished(again, tmp_path)["tested"]


@two_gpus
@pytest.mark.parametrize("more", [[], ["trainer.sync_batchnorm=true", "model.norm=batch"]], ids=["DDP", "SyncBatchNorm"])
def test_two_devices(zoo, tmp_path, more):
    if DEVICE == "cpu" and more:
        pytest.skip("SyncBatchNorm is for GPUs")
    results = finished(zoo(*JOB, *LONGER, *more, "trainer.devices=2", "trainer.precision=32-true"), tmp_path)
    assert results["world_size"] == 2


@two_gpus
def test_two_devices_train_the_weights_of_one(zoo, tmp_path):
    words = ["trainer.precision=64-true", "augmentation=none", "model.dropout=0", "model.aux=false", "optimizer.lr=0.01"]
    found = []
    for devices in (1, 2):
        job = [word for word in JOB if not word.startswith("hydra.run")]
        done = zoo(*job, *LONGER, *words, f"trainer.devices={devices}", f"hydra.run.dir=run{devices}")
        finished(done, tmp_path, f"run{devices}")
        found.append(load_pickle(tmp_path / f"run{devices}/checkpoints/last.ckpt")["state_dict"])
    assert max((found[0][key] - found[1][key]).abs().max().item() for key in found[0]) < 1e-9


def gradients(model, images, labels):
    model.train()
    outputs = model.outputs(images)
    sum(F.cross_entropy(logits, labels) for logits in (outputs.logits, *outputs.aux.values())).backward()
    found = {name: weights.grad.clone() for name, weights in model.named_parameters()}
    model.zero_grad()
    return found


def built(name, memory="plain", **choices):
    torch.manual_seed(0)
    model = create_model(name, 10, memory=memory, dropout=0.0, **choices)
    return model.to(DEVICE, memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "inception_v4", "inception_resnet_v1"])
@pytest.mark.parametrize("memory", MEMORY[1:])
def test_memory_modes_have_the_gradients_of_plain(name, memory):
    images = torch.randn(2, 3, 96, 96, dtype=torch.float64, device=DEVICE).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(2, device=DEVICE)
    expected, found = (gradients(built(name, mode, width=0.25).double(), images, labels) for mode in ("plain", memory))
    for key, weights in expected.items():
        assert (weights - found[key]).abs().max() <= 1e-9 * weights.abs().max().clamp(min=1), key


@on_cuda
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_memory_modes_need_less(name):
    peaks = {}
    images = torch.randn(16, 3, 224, 224, device=DEVICE).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(16, device=DEVICE) % 10
    for mode in MEMORY:
        model = built(name, mode)
        gradients(model, images, labels)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        gradients(model, images, labels)
        peaks[mode] = torch.cuda.max_memory_allocated() - before
        del model
    assert peaks["minimal"] < 0.8 * peaks["plain"] and peaks["lean"] < 0.9 * peaks["plain"], peaks  # with cuDNN's workspaces


@on_cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_training_step_does_not_wait_for_the_device():
    """The same as tests/training/test_device.py, by CUDA's own check."""
    model = built("inception_v3", width=0.25)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, labels = torch.randn(4, 3, 96, 96, device=DEVICE), torch.arange(4, device=DEVICE)
    gradients(model, images, labels)
    try:
        torch.cuda.set_sync_debug_mode("error")
        outputs = model.outputs(images)
        F.cross_entropy(outputs.logits, labels).backward()
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_activations_stay_channels_last():
    model = built("inception_v3", width=0.25).eval()
    images = torch.randn(2, 3, 128, 128, device=DEVICE).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        maps = model.endpoints(images)
    for name, found in maps.items():
        if found.dim() == 4 and min(found.shape[-2:]) > 1:
            assert found.is_contiguous(memory_format=torch.channels_last), name


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_outputs_equal_those_of_the_cpu(name):
    model = built(name, width=0.25).double().eval()
    images = torch.randn(2, 3, 128, 128, dtype=torch.float64)
    with torch.no_grad():
        here = model(images.to(DEVICE)).cpu()
        assert (here - model.cpu()(images)).abs().max() < 1e-10


def test_predict_and_export_from_a_run(zoo, cli, tmp_path, image_tree):
    finished(zoo(*JOB, "data.in_channels=1", "trainer.precision=32-true"), tmp_path)
    picture = next(image_tree.rglob("*.JPEG"), None) or next(path for path in image_tree.rglob("*") if path.is_file())
    done = cli("predict", "run", picture, "--format", "csv", "--output", "predicted.csv")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "predicted.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 1
    done = cli("export", "run", "network.onnx")
    assert done.returncode == 0 and (tmp_path / "network.onnx").is_file(), done.stderr
