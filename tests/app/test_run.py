"""`python run.py` as a user runs it: in a separate process, in an empty folder."""

import csv
import json
import subprocess
import sys
import zipfile

import pytest
import torch
from conftest import RECIPES, ROOT, SMALL, lines, processes_of, run_folder, wandb_run


def test_fit_then_test_then_resume(zoo, tmp_path):
    fit = zoo(*SMALL)
    assert fit.returncode == 0, fit.stderr
    folder = run_folder(tmp_path)
    results = json.loads((folder / "results.json").read_text())
    assert lines(fit.stdout)[-2].split("│")[2].strip() == str(folder.relative_to(tmp_path))  # the last row: the run folder
    assert f"{results['test/top1']:.4f}" in fit.stdout

    rows = list(csv.DictReader((folder / "csv/version_0/metrics.csv").read_text().splitlines()))
    seen = {key for row in rows for key, value in row.items() if value}
    phases = {f"{phase}/{metric}" for phase in ("train", "val", "test") for metric in ("loss", "top1", "top5")}
    aux = {"train/aux_loss/inception_4a", "train/aux_loss/inception_4d"}
    assert seen >= phases | aux | {"train/images_per_second", "lr-AdamW"}

    summary = wandb_run(folder)
    assert summary["config"]["model"]["name"] == "googlenet"
    assert json.dumps(summary).count("test/top1") >= 1

    for name in ("best", "last"):
        checkpoint = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["hyper_parameters"]["model"]["width"] == 0.25
        assert any(w.is_floating_point() for w in checkpoint["state_dict"].values())

    again = zoo("task=test", f"ckpt={folder}", "trainer=smoke", "hydra.run.dir=tested", "logger=csv")
    assert again.returncode == 0, again.stderr
    tested = json.loads((tmp_path / "tested" / "results.json").read_text())
    assert {k: v for k, v in tested.items() if k.startswith("test/")} == {
        k: v for k, v in results.items() if k.startswith("test/")
    }

    resumed = zoo("ckpt=last", "trainer.max_epochs=3", "hydra.run.dir=resumed", "logger=csv")
    assert resumed.returncode == 0, resumed.stderr
    assert f"checkpoint: {(folder / 'checkpoints/last.ckpt').relative_to(tmp_path)}" in resumed.stdout + resumed.stderr
    epochs = {
        row["epoch"]
        for row in csv.DictReader((tmp_path / "resumed/csv/version_0/metrics.csv").read_text().splitlines())
        if row["val/top1"]
    }
    assert epochs == {"1", "2"}

    in_place = zoo(*SMALL, "ckpt=last", "trainer.max_epochs=2", f"hydra.run.dir={folder}", "logger=csv")
    assert in_place.returncode == 0, in_place.stderr
    (logged,) = folder.glob("csv/version_*/metrics.csv")
    assert {row["epoch"] for row in csv.DictReader(logged.read_text().splitlines()) if row["val/top1"]} == {
        "0",
        "1",
    }  # as in an uninterrupted run

    for change, key in (("seed=2", "seed=1"), ("optimizer=sgd", "optimizer._target_=torch.optim.AdamW")):
        changed = zoo("ckpt=last", change)
        assert changed.returncode == 2 and f"was trained with {key}; leave it out" in lines(changed.stderr)[-1]

    other = zoo("task=test", f"ckpt={folder}", "model.width=0.5")
    assert other.returncode == 2
    assert lines(other.stderr)[-1].startswith("error: model.width=0.5: ckpt=") and "model.width=0.25" in other.stderr


def test_last_is_the_last_epoch_and_best_the_best(zoo, tmp_path):
    # With learning rate 0 the accuracy never changes, so the first epoch stays the best.
    still = ["model.norm=none", "optimizer.lr=0.0", "trainer.max_epochs=2", "logger=csv"]
    done = zoo(*SMALL, *still)
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path) / "checkpoints"
    assert [torch.load(folder / f"{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last")] == [0, 1]


def test_two_processes_one_folder_one_run(zoo, tmp_path, fashion_mnist_root):
    done = zoo(
        "model=inception_v3",
        "model.width=0.25",
        "trainer.devices=2",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=2",
        "trainer.limit_val_batches=2",
        "trainer.limit_test_batches=2",
        "data.batch_size=8",
        "data.eval_batch_size=8",
        f"data.root={fashion_mnist_root}",
    )
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    assert json.loads((folder / "results.json").read_text())["world_size"] == 2
    assert wandb_run(folder)["config"]["trainer"]["devices"] == 2
    assert done.stdout.count("run folder") == 1
    assert processes_of(tmp_path) == []


def test_a_sweep_over_networks(zoo, tmp_path):
    names = ["googlenet", "bn_inception", "inception_v3", "inception_v4", "inception_resnet_v2_slim"]
    small = ["data=digits", "data.batch_size=4", "model.width=0.25", "trainer=smoke", "logger=csv"]
    done = zoo("-m", f"model={','.join(names)}", *small)
    assert done.returncode == 0, done.stderr
    results = sorted(tmp_path.glob("multirun/*/*/*/results.json"))
    assert [path.parent.name for path in results] == ["0", "1", "2", "3", "4"]
    assert [name for name in names if f"{name} at 96 px" in done.stdout] == names


ELSEWHERE = {"pretrain", "finetune", *(path.stem for path in RECIPES), "fashion_mnist", "fashion_mnist_refined"}
EXPERIMENTS = {path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")} - ELSEWHERE


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_every_experiment_in_smoke_mode(name, zoo, tmp_path, fashion_mnist_root):
    smoke = ["trainer=smoke", "trainer.max_epochs=1", "data.batch_size=8", f"data.root={fashion_mnist_root}"]
    done = zoo(f"experiment={name}", *smoke, "logger=csv")
    assert done.returncode == 0, done.stderr
    assert (run_folder(tmp_path) / "results.json").exists()


@pytest.mark.slow
def test_the_second_cycle_on_fashion_mnist_starts_from_the_first(zoo, tmp_path, fashion_mnist_root):
    smoke = ["trainer=smoke", "trainer.max_epochs=1", "data.batch_size=8", f"data.root={fashion_mnist_root}", "logger=csv"]
    early = zoo("experiment=fashion_mnist_refined", *smoke)
    assert early.returncode == 2 and "model.weights=outputs/fashion_mnist/1 does not exist" in lines(early.stderr)[-1]
    for name in ("fashion_mnist", "fashion_mnist_refined"):
        done = zoo(f"experiment={name}", *smoke)
        assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "outputs/fashion_mnist_refined/1/results.json").read_text())
    assert {"test/top1", "test_raw/top1"} <= set(results)
    saved = torch.load(tmp_path / "outputs/fashion_mnist_refined/1/checkpoints/last.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["provenance"]["source"] == "outputs/fashion_mnist/1/checkpoints/best.ckpt"


@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"], ["model=inception_v4", "--cfg", "job"]])
def test_help_and_config_do_not_import_torch(flags, zoo, tmp_path):
    (tmp_path / "torch.py").write_text("raise AssertionError('torch was imported')")
    done = zoo(*flags, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "inception_v4" in done.stdout or "googlenet" in done.stdout
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_the_wheel_carries_the_configs(zoo, tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    script = ("-P", "-c", f"import sys; sys.path.insert(0, {str(site)!r}); from inception_zoo.cli.main import main; main()")
    environment = {"PYTHONPATH": str(site)}  # so that rank 1 finds the package
    where = zoo("-P", "-c", "import inception_zoo; print(inception_zoo.__file__)", script=(), env=environment)
    assert where.stdout.startswith(str(site))
    listed = zoo("list", script=script)
    assert listed.returncode == 0 and "inception_resnet_v2_slim" in listed.stdout
    assert (site / "hydra_plugins" / "inception_zoo_sweeper.py").exists()
    done = zoo("run", *SMALL, "trainer.devices=2", "logger=csv", script=script, env=environment)
    assert done.returncode == 0, done.stderr
    assert (run_folder(tmp_path) / "results.json").exists()


@pytest.mark.slow
def test_the_quickstart_beats_the_tutorials_median(zoo, tmp_path, fashion_mnist_root):
    done = zoo("experiment=quickstart", f"data.root={fashion_mnist_root}", timeout=3600)
    assert done.returncode == 0, done.stderr
    assert json.loads((run_folder(tmp_path) / "results.json").read_text())["test/top1"] >= 0.89


@pytest.mark.slow
def test_every_generation_of_block_in_one_sweep(zoo, tmp_path):
    """The ten jobs of the README, on small images; the sweep table lists the block changes of each job."""
    variants = ["parallel", "parallel_bn", "factorized_nx1", "expanded", "residual"]
    small = [word for word in SMALL if not word.startswith("data.image_size")] + ["data.image_size=48", "logger=csv"]
    done = zoo("-m", "model=googlenet,inception_v3", f"model.blocks.all={','.join(variants)}", *small, "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / "sweep" / str(job) / "results.json").read_text()) for job in range(10)]
    names = [(r["model"], r["swapped"]) for r in results]
    assert names == [(m, f"all={v}") for m in ("googlenet", "inception_v3") for v in variants]
    assert len({r["parameters"] for r in results}) == 10
    table = done.stdout[done.stdout.rindex(" job ") :]
    assert all(f"all={variant}" in table for variant in variants) and "sweep folder: sweep" in table


def test_sweep_blocks_swaps_one_stage_at_a_time(zoo, tmp_path):
    only = "hydra.sweeper.variants=[expanded]"
    done = zoo("-m", "sweep=blocks", "model=googlenet", only, *SMALL, "logger=csv", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    table = lines(done.stdout[done.stdout.rindex(" job ") :])
    swapped = [line.split()[1] for line in table[2:-1]]  # all jobs have the same model, so the table has no model column
    assert swapped == ["none", "grid28=expanded", "grid14=expanded", "grid7=expanded"]


def test_rows_by_hand_and_a_function_of_ones_own_train(zoo, tmp_path):
    """Functions outside the package, of rows and of a module, work on two processes: rank 1 imports them too."""
    (tmp_path / "my_blocks.py").write_text(
        "from torch import nn\nfrom torchvision.ops import SqueezeExcitation\n"
        "def squeeze(c_in, c_out, level):\n    return [f'1x1 {c_out // 8} > 1x1 {c_out // 2} | 3x3 {c_out // 2}']\n"
        "def se(c_in, c_out, level):\n"
        "    return nn.Sequential(nn.Conv2d(c_in, c_out, 1), nn.BatchNorm2d(c_out), SqueezeExcitation(c_out, 8), nn.ReLU())\n"
    )
    small = [word for word in SMALL if not word.startswith("data.image_size")] + ["data.image_size=48", "logger=csv"]
    rows = 'model.blocks.mixed_6b=["1x1 192","1x1 128 > 1x5 128 > 5x1 192","avg > 1x1 384"]'
    added = 'model.blocks.mixed_5b={rows: ["1x1 64","1x1 64 > 3x3 64"], scale: 0.2, shortcut: true}'
    own = ["model.blocks.grid8=my_blocks.squeeze", "model.blocks.mixed_6c=my_blocks.se", "model.memory=minimal"]
    done = zoo("model=inception_v3", rows, added, *own, "trainer.devices=2", *small)
    assert done.returncode == 0, done.stderr
    assert "grid8=my_blocks.squeeze, mixed_5b=rows, mixed_6b=rows, mixed_6c=my_blocks.se" in done.stdout


def test_a_block_of_rows_in_a_yaml_of_ones_own(zoo, tmp_path):
    (tmp_path / "my_conf" / "block").mkdir(parents=True)
    rows = '["1x1 96", "1x1 32 > 3x3 96", "avg > 1x1 64"]'
    (tmp_path / "my_conf" / "block" / "slim.yaml").write_text(f"# @package _global_\nmodel: {{blocks: {{all: {rows}}}}}\n")
    done = zoo("--config-dir", "my_conf", "block=slim", *SMALL, "logger=csv")
    assert done.returncode == 0, done.stderr
    assert "all=rows" in done.stdout


def test_a_swap_that_cannot_be_ends_in_one_line_before_anything_runs(zoo):
    done = zoo("model=inception_v3", "model.blocks.grid17=reduction_pol", "data=digits")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "blocks.grid17=reduction_pol: variant 'reduction_pol' is unknown; did you mean 'reduction_pool'?" in done.stderr
