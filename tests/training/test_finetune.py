"""Fine-tuning: frozen layers, learning rates by layer, and unfreezing."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL, run_folder
from lightning import LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from inception_zoo import ZooError, create_model, load_model
from inception_zoo.config.allowed import TARGETS
from inception_zoo.training.callbacks import EMA, Unfreeze
from inception_zoo.training.optimizers import parameter_groups

HALVES = {"first": "data.classes=[0,1,2,3,4]", "second": "data.classes=[5,6,7,8,9]"}


def small(**choices):
    return create_model("googlenet", 4, 1, width=0.25, norm="batch", stem="medium", aux=False, **choices)


def test_frozen_weights_and_statistics_stay_while_the_rest_learns():
    model = small(freeze="inception_4a")
    assert model.frozen[-1] == "inception_4a" and "inception_4b" not in model.frozen
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    model.train()
    F.cross_entropy(model(torch.randn(8, 1, 28, 28)), torch.arange(8) % 4).backward()
    optimizer.step()
    moved = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {block.name for block in model.plan.blocks if block.name not in model.frozen} - {"pool4"} | {"fc"}
    assert not model.conv1.training and model.inception_5b.training
    model.freeze(None)
    assert model.conv1.training and all(p.requires_grad for p in model.parameters())


def test_a_stage_freezes_up_to_its_last_endpoint():
    assert small(freeze="grid14").frozen[-1] == "inception_4e"
    with pytest.raises(ZooError, match="freeze=inception_4x is not a stage, an endpoint or all; did you mean 'inception_4"):
        small(freeze="inception_4x")


def test_all_freezes_every_endpoint_but_not_the_classifiers():
    model = small(freeze="all")
    assert model.frozen == [block.name for block in model.plan.blocks]
    assert [name for name, weight in model.named_parameters() if weight.requires_grad] == ["fc.weight", "fc.bias"]


def last_frozen(unfreeze, freeze, epochs, begin=0):
    """Return the last frozen endpoint in each epoch from `begin` on."""
    module, found = SimpleNamespace(model=small(freeze=freeze)), []
    for epoch in range(begin, epochs):
        trainer = SimpleNamespace(current_epoch=epoch, max_epochs=epochs, strategy=None)
        if epoch == begin:
            unfreeze.on_fit_start(trainer, module)
            unfreeze.on_train_start(trainer, module)  # Lightning does not start the epoch in which a run resumes
        else:
            unfreeze.on_train_epoch_start(trainer, module)
        found.append(module.model.frozen[-1] if module.model.frozen else None)
    return found


GRADUAL = ["inception_4e", "inception_3b", "pool2", None]  # what stays frozen of googlenet's stages


def test_stages_are_unfrozen_one_by_one():
    assert last_frozen(Unfreeze(1, every=1), "all", 5) == ["inception_5b", *GRADUAL]
    assert last_frozen(Unfreeze(2, every=2), "all", 10) == [each for each in ["inception_5b", *GRADUAL] for _ in range(2)]
    assert last_frozen(Unfreeze(0.1, every=0.2), "all", 10) == last_frozen(Unfreeze(1, every=2), "all", 10)
    assert last_frozen(Unfreeze(1, to="conv2", every=1), "grid14", 5)[-1] == "conv2"
    assert last_frozen(Unfreeze(1), "grid14", 3) == ["inception_4e", None, None]


def test_a_resumed_run_has_the_layers_unfrozen_that_its_epoch_trains():
    whole = last_frozen(Unfreeze(2, every=2), "all", 12)
    assert last_frozen(Unfreeze(2, every=2), "all", 12, begin=5) == whole[5:]


def test_the_average_of_a_short_run_forgets_its_first_weights(monkeypatch):
    monkeypatch.setattr(EMAWeightAveraging, "on_train_batch_end", lambda *_: None)
    average, found = EMA(decay=0.99, warmup=True), []
    for step in (1, 100_000):
        average.on_train_batch_end(SimpleNamespace(global_step=step))
        found.append(average.current_decay)
    assert found == pytest.approx([2 / 11, 0.99])


@pytest.mark.parametrize("use_buffers", [True, False])
def test_the_average_is_torchs(use_buffers):
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    ours = EMA(decay=0.9, use_buffers=use_buffers)
    trainer, module = SimpleNamespace(global_step=0), LightningModule()
    module.network = network
    ours.setup(trainer, module, "fit")
    ours.on_fit_start(trainer, module)
    theirs = AveragedModel(module, avg_fn=get_ema_avg_fn(0.9), use_buffers=use_buffers)
    for step in range(1, 5):
        network(torch.randn(8, 3))
        for weights in network.parameters():
            weights.data += torch.randn_like(weights)
        trainer.global_step = step
        ours.on_train_batch_end(trainer, module, None, None, 0)
        theirs.update_parameters(module)
    found, expected = ours._average_model.state_dict(), theirs.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_learning_rates_fall_from_the_head_to_the_stem():
    model = small()
    groups = parameter_groups(model, 0.1, 0.5)
    assert [group["name"] for group in groups[:3]] == ["head", "inception_5b", "inception_5a"]
    assert [group["lr"] for group in groups[:3]] == [0.1, 0.05, 0.025]
    assert groups[-1]["name"] == "conv1" and groups[-1]["lr"] == pytest.approx(0.1 * 0.5 ** len(model.plan.blocks))
    counted = [id(p) for group in groups for p in group["params"]]
    assert sorted(counted) == sorted(map(id, model.parameters()))
    assert len(parameter_groups(model, 0.1, 1.0)) == 1


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_norm_and_bias_can_be_left_out_of_weight_decay(decay):
    model = small()
    groups = parameter_groups(model, 0.1, decay, decay_norm_and_bias=False)
    for group in groups:
        assert all((p.dim() <= 1) is ("weight_decay" in group) for p in group["params"])
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(map(id, model.parameters()))
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=0.3)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.3}


def test_unfreeze_wants_an_epoch():
    (message,) = TARGETS["inception_zoo.training.callbacks.Unfreeze"]["epoch"].mistake("callbacks.unfreeze.epoch", 0)
    assert message == "callbacks.unfreeze.epoch=0 must be a whole number of at least 1 or a number above 0, below 1"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["~optimizer.lr", "layer_decay=0.9"], "layer_decay=0.9 needs optimizer.lr"),
        (
            ["+callbacks.unfreeze={_target_: inception_zoo.training.callbacks.Unfreeze, epoch: 1, to: grid41}", "logger=csv"],
            "callbacks.unfreeze.to=grid41 is not a stage or endpoint; did you mean 'grid14'?",
        ),
    ],
)
def test_a_mistake_about_rates_or_unfreezing_is_one_line(zoo, overrides, message):
    done = zoo(*SMALL, *overrides)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1], done.stderr


SAME = """
import torch, lightning

class Same(lightning.Callback):
    def on_train_batch_end(self, trainer, module, *args):
        weights = module.model.conv1[0][0].conv.weight
        trained = bool(weights.grad is not None)
        everyone = module.all_gather(weights.detach().double().sum())
        assert everyone.numel() == 2 and (everyone == everyone[0]).all(), f"ranks differ: {everyone}"
        gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
        buffers = {gradient.untyped_storage().data_ptr() for gradient in gradients}
        assert len(buffers) <= 3 < len(gradients), f"{len(gradients)} gradients in {len(buffers)} buffers, beside what is sent"
        with open(f"trained-{trainer.global_rank}.txt", "a") as file:
            print(trainer.current_epoch, trained, file=file)
"""


TRAINED = """
import os, lightning

class Trained(lightning.Callback):
    def on_train_batch_end(self, trainer, module, *args):
        with open("trained.txt", "a") as file:
            print(trainer.global_step, module.model.conv1[0][0].conv.weight.grad is not None, file=file)
        if trainer.global_step == 5 and "STOP" in os.environ:
            os._exit(7)
"""


def test_a_run_that_resumes_within_an_epoch_trains_the_unfrozen_layers(zoo, tmp_path):
    (tmp_path / "my_check.py").write_text(TRAINED)
    unfreeze = "+callbacks.unfreeze={_target_: inception_zoo.training.callbacks.Unfreeze, epoch: 1}"
    words = ["model.freeze=all", unfreeze, "+callbacks.trained._target_=my_check.Trained", "callbacks.last.every_n_steps=1"]
    words += ["logger=none", "trainer.max_epochs=2", "trainer.limit_train_batches=3", "hydra.run.dir=run"]
    mine = {"INCEPTION_ZOO_TARGETS": "my_check.Trained"}
    done = zoo(*SMALL, *words, env={**mine, "STOP": "1"}.items())
    assert done.returncode == 7, done.stderr
    assert (tmp_path / "trained.txt").read_text().split() == [
        "1",
        "False",
        "2",
        "False",
        "3",
        "False",
        "4",
        "True",
        "5",
        "True",
    ]
    (tmp_path / "trained.txt").unlink()
    done = zoo("ckpt=last", "hydra.run.dir=run", env=mine.items())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "trained.txt").read_text().split() == ["5", "True", "6", "True"]


def test_pretrain_then_finetune_on_two_processes(zoo, tmp_path):
    """New classes, a new head and a frozen trunk that is unfrozen: the ranks stay equal afterwards."""
    plain = [*SMALL, "data.num_classes=5", "logger=csv", "model.norm=batch"]
    first = zoo(*plain, HALVES["first"], "hydra.run.dir=first", "data.mean=[0.4]")
    assert first.returncode == 0, first.stderr
    assert load_model(tmp_path / "first" / "model.safetensors").classes == list("01234")

    (tmp_path / "my_check.py").write_text(SAME)
    tune = ["model.weights=first", "model.adapt=[head]", "model.freeze=grid28", "layer_decay=0.5", "trainer.devices=2"]
    unfreeze = ["+callbacks.unfreeze._target_=inception_zoo.training.callbacks.Unfreeze", "+callbacks.unfreeze.epoch=1"]
    unfreeze.append("+callbacks.unfreeze.every=1")  # grid28, then the stem
    check = ["+callbacks.same._target_=my_check.Same", "trainer.max_epochs=3", "data.per_class=20", "data.batch_size=16"]
    check.append("trainer.limit_test_batches=null")
    done = zoo(
        *plain,
        HALVES["second"],
        *tune,
        *unfreeze,
        *check,
        "hydra.run.dir=second",
        env={"INCEPTION_ZOO_TARGETS": "my_check.Same"}.items(),
    )
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    for rank in "01":
        lines = (tmp_path / f"trained-{rank}.txt").read_text().splitlines()
        assert lines == ["0 False"] * 2 + ["1 False"] * 2 + ["2 True"] * 2
    assert "set to match the weights: data.mean=[0.4]" in done.stdout + done.stderr
    assert "classifier re-initialized for 5 classes" in done.stdout + done.stderr
    checkpoint = torch.load(tmp_path / "second/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["provenance"]["source"] == "first/checkpoints/best.ckpt"
    tuned = load_model(tmp_path / "second")
    assert tuned.classes == list("56789") and tuned.preprocessing.mean == (0.4,)
    assert tuned.provenance.source == "first/checkpoints/best.ckpt" and len(tuned.provenance.sha256) == 64
    started, ended = load_model(tmp_path / "first"), load_model(tmp_path / "second/checkpoints/last.ckpt")
    assert not torch.equal(started.conv1[0][0].conv.weight, ended.conv1[0][0].conv.weight)
    # The checkpoint stores its normalization, so a test need not configure it.
    tested = zoo("task=test", "ckpt=second", "logger=csv", "hydra.run.dir=tested")
    assert tested.returncode == 0, tested.stderr
    results = [json.loads((tmp_path / run / "results.json").read_text())["test/loss"] for run in ("second", "tested")]
    assert results[0] == pytest.approx(results[1], rel=0.02)  # tested on two processes and on one
    resumed = zoo("ckpt=second", "layer_decay=1.0", "hydra.run.dir=resumed")
    how = "INCEPTION_ZOO_TARGETS=my_check.Same python run.py ckpt=second layer_decay=1.0"
    assert how in resumed.stderr.splitlines()[-1]
    resumed = zoo(*resumed.args[1:], env={"INCEPTION_ZOO_TARGETS": "my_check.Same"}.items())
    assert resumed.stderr.splitlines()[-1].startswith(
        "error: layer_decay=1.0: ckpt=second/checkpoints/last.ckpt was trained with"
    )
    header = (tmp_path / "second/csv/version_0/metrics.csv").read_text().splitlines()[0]
    assert "lr-AdamW/head" in header and "lr-AdamW/conv1" in header


@pytest.mark.slow
def test_the_recorded_experiments_run(zoo, tmp_path, fashion_mnist_root):
    """`finetune` starts from the run folder of `pretrain` with the same seed."""
    smoke = ["trainer=smoke", "logger=csv", f"data.root={fashion_mnist_root}", "data.batch_size=10", "seed=7"]
    early = zoo("experiment=finetune", *smoke)
    assert early.returncode == 2 and "model.weights=outputs/pretrain/7 does not exist" in early.stderr
    for name in ("pretrain", "finetune"):
        done = zoo(f"experiment={name}", *smoke)
        assert done.returncode == 0, done.stderr
    (tuned,) = (path.parent for path in tmp_path.glob("outputs/*/*/model.safetensors") if "pretrain" not in str(path))
    assert load_model(tuned).classes == ["dress", "coat", "shirt", "bag", "ankle boot"]


MISTAKES = {
    "weights that are not there": (["model.weights=nowhere"], "model.weights=nowhere does not exist"),
    "another library's network": (["model.weights=timm:inception_v4.tf_in1k"], "timm has no googlenet; it has"),
    "nothing to adapt": (["model.adapt=[head]"], "adapt=head: there are no weights to adapt"),
    "an unknown part": (["model.adapt=[haed]", "model.weights=nowhere"], "adapt=haed is unknown; did you mean 'head'?"),
    "an unknown endpoint": (["model.freeze=inception_9z"], "freeze=inception_9z is not a stage, an endpoint or all"),
    "too much decay": (["layer_decay=0"], "layer_decay=0 must be a number above 0, at most 1"),
    "classes twice": (["data.classes=[1,1]", "data.num_classes=2"], "data.classes=[1, 1] must be distinct labels"),
    "classes and their number": (["data.classes=[1,2,3]"], "as many as data.num_classes=10"),
    "an unknown interpolation": (["data.interpolation=cubic"], "did you mean 'bicubic'?"),
    "no labels": (["data.per_class=0"], "data.per_class=0 must be a whole number of at least 1"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_before_torch_is_loaded(case, zoo, tmp_path):
    overrides, message = MISTAKES[case]
    (tmp_path / "torch.py").write_text("raise AssertionError('torch was imported')")
    done = zoo(*SMALL, *overrides, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.classes=[3,12]", "data.num_classes=2"], "data.classes: unknown label 12; digits has labels 0 to 9"),
        (["data.per_class=500"], "data.per_class=500: class 0 has only"),
    ],
)
def test_a_mistake_about_the_data_is_one_line(zoo, overrides, message):
    done = zoo(*SMALL, *overrides, "logger=csv")
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1], done.stderr


def test_a_run_leaves_a_model_that_says_what_it_is(zoo, tmp_path):
    done = zoo(*SMALL, "logger=csv", "model.blocks.grid14=residual")
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    model = load_model(folder / "model.safetensors")
    best = load_model(folder)
    assert model.plan.swapped == "grid14=residual" and model.classes == [str(digit) for digit in range(10)]
    assert model.preprocessing.image_size == 32 and model.preprocessing.mean == (0.305,)
    assert all(torch.equal(value, best.state_dict()[key]) for key, value in model.state_dict().items())
    assert json.loads((folder / "results.json").read_text())["swapped"] == "grid14=residual"
    assert Path(folder / "model.safetensors").stat().st_size < 30e6
