import csv
import resource
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from inception_zoo import create_model
from inception_zoo.training.callbacks import GradientNorm, ImagesPerSecond, PeakMemory
from inception_zoo.training.module import Classifier
from inception_zoo.training.schedules import constant, cosine, exponential, one_cycle


def classifier(model, label_smoothing=0.0):
    return Classifier(model, partial(torch.optim.SGD, lr=0.1), constant, label_smoothing, {})


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(8, 1, 96, 96), torch.arange(8) % 4


def test_training_loss_is_the_papers_weighted_sum(batch, monkeypatch):
    model = create_model("googlenet", 4, 1, width=0.25, dropout=0.0)
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    module = classifier(model, label_smoothing=0.1)
    logged = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: value}))
    loss = module.training_step(batch, 0)
    module.on_train_epoch_end()
    outputs = model.outputs(batch[0])
    part = lambda logits: F.cross_entropy(logits, batch[1], label_smoothing=0.1)  # noqa: E731
    expected = part(outputs.logits) + 0.3 * part(outputs.aux["inception_4a"]) + 0.3 * part(outputs.aux["inception_4d"])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    figures = {"train/loss", "train/top1", "train/top5"}
    assert set(logged) == {"train/aux_loss/inception_4a", "train/aux_loss/inception_4d"} | figures
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.aux.parameters())


@pytest.mark.parametrize("phase", ["val", "test"])
def test_evaluation_counts_top1_top5_and_plain_cross_entropy(phase, monkeypatch):
    model = create_model("googlenet", 10, 1, width=0.25)
    logits = torch.eye(10)[:6] * 5 - torch.arange(10) * 0.1
    monkeypatch.setattr(model, "forward", lambda images: logits)
    module = classifier(model, label_smoothing=0.3)
    logged = {}
    monkeypatch.setattr(module, "log", lambda name, metric, **_: logged.update({name: metric}))
    labels = torch.tensor([0, 1, 2, 0, 9, 5])  # top-5 holds 0 in row 3, but not 9 in row 4
    name = {"val": "validation"}.get(phase, phase)
    loader = SimpleNamespace(batch_sampler=SimpleNamespace(starts=[0]))
    monkeypatch.setattr(type(module), "trainer", SimpleNamespace(test_dataloaders=loader, val_dataloaders=loader))
    getattr(module, f"{name}_step")((torch.empty(6, 1, 4, 4), labels), 0)
    getattr(module, f"on_{name}_epoch_end")()
    values = {name: float(getattr(metric, "compute", lambda metric=metric: metric)()) for name, metric in logged.items()}
    assert values[f"{phase}/top1"] == pytest.approx(4 / 6)
    assert values[f"{phase}/top5"] == pytest.approx(5 / 6)
    assert values[f"{phase}/balanced_accuracy"] == pytest.approx((0.5 + 1 + 1 + 0 + 1) / 5)
    assert values[f"{phase}/loss"] == pytest.approx(F.cross_entropy(logits, labels).item())


def rates(schedule, steps=100, epoch_steps=10, lr=0.5, **options):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler = schedule(optimizer, steps=steps, epoch_steps=epoch_steps, **options)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_schedules():
    assert rates(constant) == [0.5] * 100
    cycle = rates(one_cycle, warmup=0.25)
    assert max(cycle) == pytest.approx(0.5, rel=1e-2) and 22 <= cycle.index(max(cycle)) <= 27 and cycle[-1] < 1e-3
    for steps in range(1, 12):
        assert len(rates(one_cycle, steps=steps)) == steps
    decay = rates(cosine, warmup_epochs=2)
    assert decay[:20] == pytest.approx([0.5 * (i + 1) / 20 for i in range(20)]) and decay[60] == pytest.approx(0.25)
    assert decay[-1] < 1e-3 and sorted(decay[20:], reverse=True) == decay[20:]
    assert len(rates(cosine, steps=2, epoch_steps=2)) == 2  # shorter than the warmup, as in a smoke run


def test_exponential_decay_is_the_papers():
    v3 = rates(exponential, lr=0.045)  # ten steps an epoch; minus 6 % every two epochs
    assert v3 == pytest.approx([0.045 * 0.94 ** (step // 20) for step in range(100)])
    v1 = rates(exponential, steps=200, lr=0.01, factor=0.96, epochs=8)
    assert v1 == pytest.approx([0.01] * 80 + [0.0096] * 80 + [0.009216] * 40)
    smooth = rates(exponential, lr=1.0, staircase=False, warmup_epochs=1)
    assert smooth[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert smooth[10:] == pytest.approx([0.94 ** (step / 20) for step in range(10, 100)])


@pytest.mark.parametrize("weight", [None, 0.0, 0.7])
def test_auxiliary_weights_are_the_tables_or_the_users(weight, batch, monkeypatch):
    model = create_model("googlenet", 4, 1, width=0.25, dropout=0.0)
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    module = Classifier(model, partial(torch.optim.SGD, lr=0.1), constant, 0.0, {}, aux_weight=weight)
    monkeypatch.setattr(module, "log", lambda *args, **_: None)
    outputs = model.outputs(batch[0])
    aux = sum(F.cross_entropy(logits, batch[1]) for logits in outputs.aux.values())
    expected = F.cross_entropy(outputs.logits, batch[1]) + (0.3 if weight is None else weight) * aux
    assert module.training_step(batch, 0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_of_mixed_labels_is_the_mix_of_the_losses(batch, monkeypatch):
    model = create_model("googlenet", 4, 1, width=0.25, dropout=0.0, aux=False)
    module = classifier(model)
    logged = {}
    monkeypatch.setattr(module, "log", lambda name, metric, **_: logged.update({name: metric}))
    images, labels = batch
    other, share = labels.roll(1), 0.7
    soft = share * F.one_hot(labels, 4) + (1 - share) * F.one_hot(other, 4)
    logits = model(images)
    expected = share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, other)
    assert module.training_step((images, soft), 0).item() == pytest.approx(expected.item(), rel=1e-5)
    hit = logits.argmax(1)
    credit = share * (hit == labels).float() + (1 - share) * (hit == other).float()
    module.on_train_epoch_end()
    assert logged["train/top1"].compute().item() == pytest.approx(credit.mean().item())


def test_mixed_labels_of_fewer_classes_than_the_network_has(batch, monkeypatch):
    module = classifier(create_model("googlenet", 6, 1, width=0.25, dropout=0.0, aux=False))
    monkeypatch.setattr(module, "log", lambda *args, **_: None)
    soft = F.one_hot(batch[1], 4).float()
    assert module.training_step((batch[0], soft), 0).item() == pytest.approx(module.training_step(batch, 0).item(), rel=1e-5)


def test_a_copy_of_a_compiled_network_is_a_network_of_its_own():
    model = create_model("googlenet", 4, 1, width=0.25, compile=True)
    copy = deepcopy(model)
    assert copy.outputs.__self__ is copy and "outputs" in vars(model)
    assert {key: value.shape for key, value in copy.state_dict().items()} == {
        key: value.shape for key, value in create_model("googlenet", 4, 1, width=0.25).state_dict().items()
    }


@pytest.mark.slow
def test_a_compiled_network_is_the_same_network(batch):
    torch.manual_seed(0)
    model = create_model("googlenet", 4, 1, width=0.25, dropout=0.0).eval()
    compiled = create_model("googlenet", 4, 1, width=0.25, dropout=0.0, compile=True).eval()
    compiled.load_state_dict(model.state_dict())
    torch.testing.assert_close(compiled(batch[0]), model(batch[0]), rtol=1e-4, atol=1e-5)
    ours, theirs = compiled.outputs(batch[0]), model.outputs(batch[0])
    torch.testing.assert_close(ours.aux, theirs.aux, rtol=1e-4, atol=1e-5)
    ours.logits.sum().backward()
    assert compiled.fc.weight.grad is not None


def test_a_network_learns_a_batch(batch):
    torch.manual_seed(0)
    model = create_model("inception_v3", 4, 1, width=0.25, aux=False, dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(model(batch[0]), batch[1])
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_images_per_second_counts_all_processes(monkeypatch):
    from types import SimpleNamespace

    clock = iter([10.0, 14.0])
    monkeypatch.setattr("inception_zoo.training.callbacks.time.perf_counter", lambda: next(clock))
    logged = {}
    module = SimpleNamespace(log=lambda name, value, **_: logged.update({name: value}))
    callback = ImagesPerSecond()
    callback.on_train_epoch_start(None, module)
    for last in (False, True):
        trainer = SimpleNamespace(world_size=2, is_last_batch=last)
        callback.on_train_batch_end(trainer, module, None, (torch.empty(8, 1), torch.empty(8)), 0)
    assert logged == {"train/images_per_second": 2 * 2 * 8 / 4.0}


class Norms(L.Callback):
    """Records the gradient norm after each batch, computed by its definition."""

    def __init__(self):
        self.seen = []

    def on_after_backward(self, trainer, pl_module):
        self.seen.append(sum(p.grad.square().sum() for p in pl_module.parameters() if p.grad is not None).sqrt().item())


def test_gradients_before_clipping_and_the_memory_of_this_training(batch, tmp_path):
    torch.ones(10**8)  # 0.4 GiB of an earlier job must not be counted
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    norms, logger = Norms(), CSVLogger(tmp_path)
    steps = {"max_epochs": 1, "accumulate_grad_batches": 2, "log_every_n_steps": 2, "gradient_clip_val": 1e-3}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(
        accelerator="cpu", logger=logger, callbacks=[norms, GradientNorm(), PeakMemory()], limit_val_batches=0, **steps, **quiet
    )
    batches = DataLoader([batch] * 8, batch_size=None)
    trainer.fit(classifier(create_model("googlenet", 4, 1, width=0.25)), batches, batches)
    rows = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").read_text().splitlines()))
    logged = {int(row["step"]): float(row["train/gradient_norm"]) for row in rows if row["train/gradient_norm"]}
    assert logged == pytest.approx({1: norms.seen[3], 3: norms.seen[7]}) and min(logged.values()) > 0.01
    (peak,) = [float(row["train/peak_memory_gib"]) for row in rows if row["train/peak_memory_gib"]]
    assert 0.1 < peak < before - 0.2


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, 12), ({"accumulate_grad_batches": 3}, 6), ({"limit_train_batches": 0.5}, 6), ({"max_steps": 4}, 4)],
)
def test_a_schedule_is_as_long_as_the_training(options, steps, batch):
    asked, images = [], (batch[0][:2, :, :48, :48], batch[1][:2])

    def schedule(optimizer, steps, epoch_steps):
        asked.append((steps, epoch_steps))
        return constant(optimizer, steps, epoch_steps)

    module = Classifier(create_model("googlenet", 4, 1, width=0.1), partial(torch.optim.SGD, lr=0.0), schedule, 0.0, {})
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False)
    trainer = L.Trainer(accelerator="cpu", max_epochs=3, limit_val_batches=0, **quiet, **options)
    batches = DataLoader([images] * 4, batch_size=None)
    trainer.fit(module, batches, batches)
    assert asked == [(steps, {12: 4, 6: 2, 4: 4}[steps])] and trainer.global_step == steps


@pytest.mark.parametrize("phase", ["train", "validation"])
def test_statistics_are_not_sent_with_each_batch(phase, tmp_path):
    """BatchNorm buffers are not broadcast with each batch: only rank 0's are used, and evaluation broadcasts them."""
    module = classifier(create_model("googlenet_bn", 4, 1, width=0.25, aux=False))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", world_size=1, rank=0)
    try:
        wrapper = DistributedDataParallel(module)
        module._trainer = SimpleNamespace(model=wrapper)
        assert wrapper.will_sync_module_buffers()
        getattr(module, f"on_{phase}_epoch_start")()
        assert not wrapper.will_sync_module_buffers()
    finally:
        torch.distributed.destroy_process_group()
