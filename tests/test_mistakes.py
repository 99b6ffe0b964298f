"""What a user gets wrong on the command line ends in one line that says what would be right, before anything long starts."""

import shutil
from pathlib import Path

import pytest
from conftest import SMALL, lines, processes_of

LIGHT_MISTAKES = {
    "a misspelt key": (["trainer.device=2"], "trainer.device is no key of the config; did you mean 'trainer.devices'?"),
    "a misspelt group": (["modle=inception_v3"], "modle is no key of the config; did you mean 'model'?"),
    "a misspelt model": (["model=inception_v33"], "model=inception_v33 is unknown; did you mean 'inception_v3'?"),
    "a misspelt data set": (["data=digit"], "data=digit is unknown; did you mean 'digits'?"),
    "a misspelt experiment": (["experiment=quikstart"], "experiment=quikstart is unknown; did you mean 'quickstart'?"),
    "a misspelt endpoint": (
        ["model=inception_v3", "model.blocks.mixed_6z=[max]"],
        "model.blocks.mixed_6z is no key of the config; did you mean 'model.blocks.mixed_6",
    ),
    "an unknown token": (['model.blocks.inception_3a=["1x1 64 > cnv 3"]'], "row '1x1 64 > cnv 3': unknown token 'cnv 3'"),
    "another optimizer at a recipe's rate": (
        ["recipe=modern", "optimizer=adamw"],
        "optimizer=adamw: the rates of recipe=modern are for its own optimizer; give optimizer.lr, too",
    ),
    "an image too small": (["data.image_size=28"], "is below the minimum of 47 px"),
    "rows without quotes": (
        ["model.blocks.inception_3a=[1x1 64 > 3x3 96]"],
        "cannot be read; it must be key=value, with rows in quotes",
    ),
}


@pytest.mark.parametrize("case", LIGHT_MISTAKES)
def test_a_mistake_ends_in_one_line_without_torch(case, zoo, tmp_path):
    overrides, message = LIGHT_MISTAKES[case]
    (tmp_path / "torch.py").write_text("raise AssertionError('torch was imported')")
    done = zoo(*overrides, env={"PYTHONPATH": str(tmp_path)}.items())
    assert done.returncode == 2
    (line,) = lines(done.stderr)
    assert line.startswith("error: ") and message in line
    assert "Traceback" not in done.stderr


def test_the_traceback_is_there_for_who_asks(zoo):
    done = zoo("data.image_size=9", env={"HYDRA_FULL_ERROR": "1"}.items())
    assert done.returncode == 1 and "Traceback" in done.stderr


HEAVY_MISTAKES = {
    "no device": (["trainer.devices=0"], "trainer.devices=0 must be at least 1"),
    "more GPUs than there are": (["trainer.devices=64", "trainer.accelerator=gpu"], "trainer.devices=64: this machine has"),
    "a batch that does not divide": (["data.batch_size=9", "trainer.devices=2"], "data.batch_size=9 does not divide by the 2"),
    "no such checkpoint": (["task=test", "ckpt=none.ckpt"], "ckpt=none.ckpt: none.ckpt does not exist"),
    "no checkpoint to test": (["task=test"], "task=test needs ckpt=PATH"),
    "nothing to resume": (["ckpt=last"], "ckpt=last: there is no checkpoint in"),
    "a file that is no checkpoint": (["task=test", "ckpt=text.ckpt"], "ckpt=text.ckpt is no readable checkpoint"),
    "labels outside num_classes": (["data.num_classes=3"], "data.num_classes=3: digits has labels up to 9"),
    "a folder without the files": (
        ["data=fashion_mnist", "data.root=empty", "data.image_size=64"],
        "data.root=empty: no Fashion",
    ),
    "mixup of one image": (["data.batch_size=1", "augmentation.mixup=0.2"], "augmentation.mixup mixes the images of a batch"),
    "a shift larger than the image": (
        ["augmentation.transforms.shift.translate=[2.0,0.0]"],
        "augmentation: translation values should be between 0 and 1",
    ),
    "a schedule with another's options": (
        ["recipe=googlenet", "scheduler=cosine", "data.batch_size=32"],
        "scheduler.factor is no option of cosine (a recipe may have set it for another); add '~scheduler.factor'",
    ),
    "an augmentation's options without it": (
        ["recipe=bn_inception_x5", "augmentation=light", "data.batch_size=32"],
        "is no transform, it has no _target_; set it to null",
    ),
    "no GPU for SyncBatchNorm": (
        ["trainer.sync_batchnorm=true", "trainer.accelerator=cpu"],
        "trainer.sync_batchnorm=true needs",
    ),
    "W&B online without a key": (["logger.wandb.offline=false"], "logger.wandb.offline=false needs an API key"),
}


@pytest.mark.parametrize("case", HEAVY_MISTAKES)
def test_a_mistake_ends_in_one_line_before_training(case, mistake, tmp_path):
    overrides, message = HEAVY_MISTAKES[case]
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    if case == "a folder without the files" and Path("/usr/share/datasets/fashion-mnist").exists():
        pytest.skip("Debian's package is installed, so the files are found")
    no_network = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9") | {"no_proxy": ""}
    done = mistake(*SMALL, *overrides, env={"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), **no_network}.items())
    assert done.returncode == 2, done.stderr
    assert lines(done.stderr)[-1].startswith("error: ") and message in lines(done.stderr)[-1]
    assert "Traceback" not in done.stderr and "Epoch 0" not in done.stdout
    assert processes_of(tmp_path) == []


def test_a_damaged_folder_ends_in_one_line_before_training(mistake, tmp_path, image_tree):
    root = shutil.copytree(image_tree, tmp_path / "images")
    file = next((root / "train").rglob("*.JPEG"))
    file.write_bytes(file.read_bytes()[:-200])
    small = ["data=imagenet", f"data.root={root}", "data.image_size=64", "data.batch_size=8"]
    done = mistake(*small, env={"XDG_CACHE_HOME": str(tmp_path / "cache")}.items())
    assert done.returncode == 2 and "Epoch 0" not in done.stdout
    last = lines(done.stderr)[-1]
    assert last.startswith(f"error: data.root={root}: 1 of 93 images cannot be read") and str(file) in last
