import subprocess
import sys

import pytest
import torch
from timm.optim import muon

from inception_zoo import ZooError
from inception_zoo.system.devices import auto_precision, bf16_gain, check_batch, check_devices, peak_memory
from inception_zoo.training.muon import Muon


def trainer(devices, accelerator="auto", sync_batchnorm=False):
    return {"devices": devices, "accelerator": accelerator, "sync_batchnorm": sync_batchnorm}


@pytest.mark.parametrize("devices", [1, 2, "auto"])
def test_cpus_take_any_number_of_processes(devices, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    check_devices(trainer(devices))


@pytest.mark.parametrize(
    ("devices", "accelerator", "gpus", "message"),
    [
        (0, "auto", 0, "trainer.devices=0 must be at least 1"),
        ("two", "auto", 0, "trainer.devices=two must be"),
        (3, "auto", 2, "trainer.devices=3: this machine has 2 GPUs"),
        ([0, 7], "gpu", 2, "this machine has 2 GPUs"),
        ("auto", "gpu", 0, "this machine has 0 GPUs"),
        ([0, 1], "auto", 0, "names GPUs, but this job runs on CPUs"),
        (-1, "cpu", 2, "names GPUs, but this job runs on CPUs"),
    ],
)
def test_devices_that_there_are_not(devices, accelerator, gpus, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ZooError) as error:
        check_devices(trainer(devices, accelerator))
    assert message in str(error.value)


def test_batchnorm_is_synchronized_on_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices(trainer(2, sync_batchnorm=True))
    with pytest.raises(ZooError, match=r"trainer.sync_batchnorm=true needs GPUs"):
        check_devices(trainer(2, "cpu", sync_batchnorm=True))


def test_gpus_that_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for devices in (1, 2, [1], -1, "auto"):
        check_devices(trainer(devices, "gpu"))


def test_the_global_batch_is_divided():
    check_batch(128, 2, "batch")
    check_batch(2, 2, "none")
    with pytest.raises(ZooError, match=r"data.batch_size=7 is not divisible by the 2 processes; try 6"):
        check_batch(7, 2, "batch")
    with pytest.raises(ZooError, match=r"data.batch_size=2 is one image per process, but BatchNorm needs two; try 4"):
        check_batch(2, 2, "batch")


@pytest.mark.parametrize(("fp32", "bf16", "chosen"), [(2.0, 1.0, "bf16-mixed"), (1.0, 1.0, "32-true"), (1.0, 2.0, "32-true")])
def test_cpu_precision_follows_the_measurement(fp32, bf16, chosen, monkeypatch):
    seconds = {torch.float32: fp32, torch.bfloat16: bf16}
    monkeypatch.setattr("inception_zoo.system.devices._matmul_seconds", lambda dtype, size: seconds[dtype])
    bf16_gain.cache_clear()
    precision, why = auto_precision("cpu")
    bf16_gain.cache_clear()
    assert precision == chosen and f"{fp32 / bf16:.2f} times" in why


@pytest.mark.parametrize(("small", "chosen", "sizes"), [(0.3, "bf16-mixed", {128, 1024}), (0.02, "32-true", {128})])
def test_a_small_product_only_tells_whether_bf16_is_emulated(small, chosen, sizes, monkeypatch):
    seen = set()

    def seconds(dtype, size):
        seen.add(size)
        return 1.0 if dtype == torch.float32 else 1 / {128: small, 1024: 3.0}[size]

    monkeypatch.setattr("inception_zoo.system.devices._matmul_seconds", seconds)
    bf16_gain.cache_clear()
    precision, _ = auto_precision("cpu")
    bf16_gain.cache_clear()
    assert precision == chosen and seen == sizes


@pytest.mark.parametrize(("gain", "dtype"), [(0.01, torch.float32), (2.0, torch.bfloat16)])
def test_muon_orthogonalizes_in_what_the_cpu_is_fast_at(gain, dtype, monkeypatch):
    monkeypatch.setattr("inception_zoo.training.muon.bf16_gain", lambda: gain)
    seen, orthogonalize = [], muon.zeropower_via_newtonschulz

    def recorded(update, *args, **options):
        seen.append(options.get("dtype", torch.bfloat16))
        return orthogonalize(update, *args, **options)

    monkeypatch.setattr(muon, "zeropower_via_newtonschulz", recorded)
    weights = torch.nn.Parameter(torch.randn(8, 8))
    before = weights.detach().clone()
    weights.grad = torch.randn(8, 8)
    Muon([weights], lr=0.1).step()
    assert seen == [dtype] and not torch.equal(weights, before)


def test_the_peak_is_of_this_process_and_not_of_the_one_that_started_it():
    held = torch.ones(3 * 10**8)  # 1.1 GiB
    assert peak_memory(torch.device("cpu")) > held.nbytes
    code = "import torch; from inception_zoo.system.devices import peak_memory; print(peak_memory(torch.device('cpu')))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**26 < int(child.stdout) < held.nbytes
