"""Every user error is reported in one line with the remedy, before any long work starts."""

import io
import json
import os
import shlex
import shutil
import sys
import traceback
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, lines, processes_of
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from inception_zoo import ZooError, app
from inception_zoo.config import CONF
from inception_zoo.config.composed import check_composed
from inception_zoo.config.explain import explain_all
from inception_zoo.config.hydra_patches import install, loader
from inception_zoo.config.unknown_keys import readable
from inception_zoo.errors import TREE, nearest, one_line

WITHOUT_TORCH = [
    ("trainer.device=2", "unknown config key 'trainer.device'; did you mean 'trainer.devices'?"),
    ("model=inception_v33", "model=inception_v33 is unknown; did you mean 'inception_v3'?"),
    ("data.image_size=28", "is below the minimum of 31 px"),
    ("optimizer._target_=my_parts.Adam", "optimizer._target_=my_parts.Adam: no module 'my_parts' in /"),
    ("-m optimizer._target_=os.Adam,os.path.exists", "optimizer._target_=os.Adam: os has no 'Adam'; "),
    ("-m seed=1,2 model=inceptoin_v3", "model=inceptoin_v3 is unknown; did you mean 'inception_v3'?"),
]


@pytest.mark.parametrize(("words", "message"), WITHOUT_TORCH)
def test_a_mistake_ends_in_one_line_without_torch(words, message, zoo, tmp_path):
    (tmp_path / "torch.py").write_text("raise AssertionError('torch was imported')")
    done = zoo(*words.split(), env={"PYTHONPATH": str(tmp_path)}.items())
    assert done.returncode == 2
    (line,) = lines(done.stderr)
    assert line.startswith("error: ") and message in line


def test_the_traceback_is_there_for_who_asks(zoo):
    done = zoo("data.image_size=9", env={"HYDRA_FULL_ERROR": "1"}.items())
    assert done.returncode == 1 and "Traceback" in done.stderr


# Overrides → a fragment of each error line. Here: wrong values, one key at a time, for every group.
VALUES = {
    "task=train": ["task=train must be one of fit, test"],
    "task=tets": ["did you mean 'test'?"],
    "task=null": ["task=null must be one of fit, test"],
    "task=test": ["task=test needs ckpt=PATH"],
    "ckpt=3": ["ckpt=3 must be a string"],
    "ckpt=[a,b]": ["ckpt=['a', 'b'] must be a string"],
    "seed=1.5": ["seed=1.5 must be a whole number of at least 0"],
    "seed=true": ["seed=true must be a whole number"],
    "seed=abc": ["seed=abc must be a whole number"],
    "seed=-1": ["seed=-1 must be a whole number"],
    "seed=4294967296": ["seed=4294967296 must be"],
    "seed=null": ["seed=null must be"],
    "seed=[1]": ["seed=[1] must be"],
    "label_smoothing=nan": ["label_smoothing=nan must be a number of at least 0 and below 1"],
    "label_smoothing=1": ["label_smoothing=1 must be"],
    "aux_weight=inf": ["aux_weight=inf must be a number of at least 0 or null"],
    "aux_weight=true": ["aux_weight=true must be"],
    "lr_for_batch=0": ["lr_for_batch=0 must be"],
    "decay_norm_and_bias=1": ["decay_norm_and_bias=1 must be true or false"],
    "layer_decay=2": ["layer_decay=2 must be a number above 0, at most 1"],
    "sweep.trial=first": ["sweep.trial=first must be"],
    "model.name=googlenett": ["did you mean 'googlenet'?"],
    "model.num_classes=0": [
        "model.num_classes=0 needs a metric-learning loss, such as loss=arcface; set it, or remove this override"
    ],
    "model.num_classes=-1": ["model.num_classes=-1 must be a whole number of at least 0"],
    "model.num_classes=5": ["model.num_classes=5: the data has 10 classes"],
    "model.in_channels=-3": ["model.in_channels=-3 must be"],
    "model.aux=maybe": ["model.aux=maybe must be true or false"],
    "model=bn_inception model.aux=true": ["aux=true: this network has no auxiliary head"],
    "model.norm=bach": ["did you mean 'batch'?"],
    "model.norm=[batch]": ["model.norm=['batch'] must be one of"],
    "model.stem=tiny": ["model.stem=tiny must be one of imagenet, medium, small"],
    "model.width=0": ["model.width=0 must be a number above 0, at most 16"],
    "model.width=1e30": ["model.width=1e+30 must be"],
    "model.width=nan": ["model.width=nan must be"],
    "model.activation=rely": ["did you mean 'relu'?"],
    "model.dropout=1": ["model.dropout=1 must be"],
    "model.drop_path=-0.1": ["model.drop_path=-0.1 must be"],
    "model.drop_path=0.1": ["drop_path=0.1: no block is residual"],
    "model.residual_scale=0": ["model.residual_scale=0 must be"],
    "model.init=she": ["did you mean 'he'?"],
    "model.weights=nowhere": ["model.weights=nowhere does not exist"],
    "model.weights=3": ["model.weights=3 must be"],
    "model.adapt=head": ["model.adapt=head must be a list"],
    "model.freeze=grid99": [
        "model.freeze=grid99 is not a stage, an endpoint or all; valid: all, grid28, grid14, grid7, conv1, "
    ],
    "model.freeze=inception_3c": ["model.freeze=inception_3c is not a stage, an endpoint or all; did you mean 'inception_"],
    "model.compile=yes_please": ["model.compile=yes_please must be true or false"],
    "model.blocks.inception_3a=paralel": ["variant 'paralel' is unknown; did you mean 'parallel'?"],
    "model.blocks.inception_3a=3": ["blocks.inception_3a=3: must be a variant or a list of rows"],
    "'model.blocks.inception_3a=[\"1x1 64 > cnv 3\"]'": ["row '1x1 64 > cnv 3': unknown token 'cnv 3'"],
    "'model.blocks.inception_3a={rows: [\"1x1 8\"], scale: 3}'": ["scale=3 must be a number above 0"],
    "model.blocks=parallel": ["model.blocks=parallel must map stages or endpoints"],
    "+model.depth=3": ["model.depth is not an option"],
    "data.batch_size=0": ["data.batch_size=0 must be a whole number of at least 1"],
    "data.batch_size=1e9": ["data.batch_size=1000000000.0 must be a whole number"],
    "data.batch_size=99999999999": ["data.batch_size=99999999999 must be"],
    "data.eval_batch_size=many": ["data.eval_batch_size=many must be"],
    "data.image_size=9": ["data.image_size=9 is below the minimum"],
    "data.image_size=1000000": ["data.image_size=1000000 must be a whole number of at least 1 and at most 8192"],
    "data.image_size=[96,96]": ["data.image_size=[96, 96] must be"],
    "data.val_size=0": ["data.split.val=0 must be a whole number of at least 1 or a number above 0, below 1 or null"],
    "data.num_classes=1": ["data.num_classes=1 must be a whole number of at least 2"],
    "data.mean=[0.1,0.2]": ["data.mean=[0.1, 0.2] must have one value per channel (data.in_channels=1)"],
    "data.std=[0]": ["data.std=[0] must be a list, each a number above 0"],
    "data.std=0.5": ["data.std=0.5 must be a list"],
    "data.mean=[nan]": ["data.mean=[nan] must be"],
    "data.interpolation=cubic": ["did you mean 'bicubic'?"],
    "data.crop_pct=0": ["data.crop_pct=0 must be a number above 0, at most 1"],
    "data.crops=3": ["data.crops=3 must be one of 1, 2, 10, 144"],
    "data.flip=2": ["data.flip=2 must be a number of at least 0 and at most 1"],
    "data.workers=-1": ["data.workers=-1 must be"],
    "data.workers=auto": ["data.workers=auto must be"],
    "data.classes=3": ["data.classes=3 must be a list"],
    "data.classes=[1,1] data.num_classes=2": ["data.classes=[1, 1] must be distinct labels"],
    "data.per_class=0": ["data.per_class=0 must be"],
    "data.progressive=[96]": ["data.progressive=[96] must be image sides in pixels"],
    "data.progressive={0:128}": ["data.progressive.0=128 is larger than data.image_size=96"],
    "data.progressive={first:64}": ["data.progressive={'first': 64} must be image sides in pixels"],
    "data.progressive={0:6+4}": ["data.progressive={0: '6+4'} must be image sides in pixels"],
    "data.root=''": ["data.root= must be a folder or a table or null"],
    "data=imagefolder": ["data.root=null: not set; set data.root=FOLDER"],
    "data=imagefolder data.root=nowhere": ["data.root=nowhere: there is no such folder"],
    "data=synthetic data.source.noise=-1": ["data.source.noise=-1 must be"],
    "data=synthetic data.source.train=0": ["data.source.train=0 must be"],
    "+data.shuffle=true": ["data.shuffle is not an option of ImageData"],
    "augmentation.erasing=2": ["augmentation.erasing=2 must be"],
    "augmentation.mixup=-1": ["augmentation.mixup=-1 must be a number of at least 0"],
    "augmentation.cutmix=much": ["augmentation.cutmix=much must be"],
    "augmentation.crop=centre": ["augmentation.crop=centre must be null or a mapping with a _target_"],
    "augmentation.transforms.flip=true": ["augmentation.transforms.flip=true is not a transform"],
    "augmentation=randaugment augmentation.transforms.randaugment.num_ops=0": ["num_ops=0 must be"],
    "trainer.accelerator=gpus": ["did you mean 'gpu'?"],
    "trainer.devices=0": ["trainer.devices=0 must be a whole number of at least 1"],
    "trainer.devices=two": ["trainer.devices=two must be"],
    "trainer.devices=[0,0]": ["trainer.devices=[0, 0] must be"],
    "trainer.num_nodes=0": ["trainer.num_nodes=0 must be"],
    "trainer.max_epochs=-1": ["trainer.max_epochs=-1 must be"],
    "trainer.limit_train_batches=-2": ["trainer.limit_train_batches=-2 must be"],
    "trainer.limit_val_batches=1.5": ["trainer.limit_val_batches=1.5 must be a whole number of at least 0 or a fraction"],
    "trainer.accumulate_grad_batches=0": ["trainer.accumulate_grad_batches=0 must be"],
    "trainer.gradient_clip_val=-1": ["trainer.gradient_clip_val=-1 must be"],
    "trainer.log_every_n_steps=0": ["trainer.log_every_n_steps=0 must be"],
    "trainer.deterministic=perhaps": ["trainer.deterministic=perhaps must be"],
    "+trainer.logger=false": ["trainer.logger=false must be left out"],
    "optimizer.lr=-0.1": ["optimizer.lr=-0.1 must be a number of at least 0"],
    "optimizer.lr=null": ["optimizer.lr=null must be"],
    "optimizer.lr=inf": ["optimizer.lr=inf must be"],
    "optimizer.betas=[0.9,1.0]": ["optimizer.betas=[0.9, 1.0] must be a list, each"],
    "optimizer.weight_decay=-1": ["optimizer.weight_decay=-1 must be"],
    "optimizer=sgd optimizer.momentum=1.1": ["optimizer.momentum=1.1 must be"],
    "optimizer=rmsprop optimizer.eps=-1": ["optimizer.eps=-1 must be"],
    "optimizer=muon optimizer.nesterov=3": ["optimizer.nesterov=3 must be"],
    "recipe=modern optimizer=adamw": ["the learning rate of recipe=modern is for its own optimizer; set optimizer.lr, too"],
    "~optimizer.lr layer_decay=0.9": ["layer_decay=0.9 needs optimizer.lr"],
    "scheduler.warmup_epochs=-1": ["scheduler.warmup_epochs=-1 must be"],
    "scheduler=one_cycle scheduler.warmup=2": ["scheduler.warmup=2 must be"],
    "scheduler=exponential scheduler.factor=0": ["scheduler.factor=0 must be"],
    "recipe=inception_v3 scheduler.epochs=0": ["scheduler.epochs=0 must be"],
    "+scheduler.step=3": ["scheduler.step is not an option of cosine"],
    "callbacks.best.monitor=val/topp1": ["did you mean 'val/top1'?"],
    "callbacks.last.on_nan=stopp": ["did you mean 'stop'?"],
    "callbacks.last.every_n_steps=0": ["callbacks.last.every_n_steps=0 must be"],
    "callbacks.last.rate_factor=1": ["callbacks.last.rate_factor=1 must be"],
    "callbacks=ema callbacks.ema.decay=1": ["callbacks.ema.decay=1 must be"],
    "callbacks.memory=null": ["callbacks.memory=null must have a _target_; remove it with '~callbacks.memory'"],
    "logger.csv.flush_logs_every_n_steps=0": ["logger.csv.flush_logs_every_n_steps=0 must be"],
    "logger.wandb.offline=no_thanks": ["logger.wandb.offline=no_thanks must be true or false"],
    "logger.wandb.tags=mine": ["logger.wandb.tags=mine must be a list"],
    "+logger.x=csv": ["logger.x=csv must have a _target_"],
    "'~logger'": ["logger=null must be one of the group's options"],
    "experiment=finetune callbacks.unfreeze.epoch=0 model.weights=null 'model.adapt=[]'": [
        "callbacks.unfreeze.epoch=0 must be"
    ],
    "hydra.run.dir=''": ["hydra.run.dir= must be a string that is not empty"],
    "hydra.run.dir=run.py/run": ["run.py is a file"],
    "hydra.verbose=3": ["hydra.verbose=3 must be true or false"],
    "hydra.job_logging.root.level=LOUD": ["hydra.job_logging.root.level=LOUD must be one of CRITICAL"],
    "optimizer._target_=os.system model.width=0": [
        "optimizer._target_=os.system is not on the allow-list",
        "model.width=0 must be",
    ],
    "recipe=googlenet scheduler=cosine": ["remove it with '~scheduler.factor'", "remove it with '~scheduler.epochs'"],
    "recipe=bn_inception_x5 augmentation=light": ["augmentation.transforms.colour={'brightness': 0.2, 'contrast': 0.2"],
    "~trainer.devices": ["trainer.devices is missing"],
    "+foo=1": ["unknown config key 'foo'"],
}

OTHER = "must be a network of the Inception family (see `inception-zoo list`); to train another one, write a LightningModule"
COMMANDS = {  # as typed in a shell
    "model.blocks.all=nowhere.block": ["model.blocks.all=nowhere.block: no module 'nowhere' in /"],
    "augmentation.transforms=[]": ["augmentation.transforms=[]: "],
    "task=tets": ["did you mean 'test'?"],
    "modle=inception_v3": ["unknown config key 'modle'; did you mean 'model'?"],
    "data=digit": ["data=digit is unknown; did you mean 'digits'?"],
    "experiment=quikstart": ["experiment=quikstart is unknown; did you mean 'quickstart'?"],
    "model=inception_v3 model.blocks.mixed_6z=[max]": [
        "model.blocks.mixed_6z is not a stage or endpoint; did you mean 'mixed_6"
    ],
    "model=resnet50": [f"model=resnet50 {OTHER}"],
    "model.name=resnet50": [f"model.name=resnet50 {OTHER}"],
    "model._target_=torchvision.models.resnet18": [f"model._target_: model {OTHER}"],
    "+model._target_=torchvision.models.resnet18": [f"model._target_: model {OTHER}"],
    "metrics=3": ["metrics=3 must be"],
    "+metrics.mine=3": ["metrics.mine=3 must have a _target_"],
    "~seeed": ["unknown config key 'seeed'; did you mean 'seed'?"],
    "hydra.run.dri=x": ["unknown config key 'hydra.run.dri'; did you mean 'hydra.run.dir'?"],
    "hydra/launcher=jobblib": ["hydra/launcher=jobblib is unknown; did you mean 'joblib'?"],
    # several errors at once
    "seed=-1 trainer.max_epochs=0 optimizer.lr=a": ["seed=-1", "trainer.max_epochs=0", "optimizer.lr=a"],
    "sede=1 data=digit trainer.device=2": [
        "unknown config key 'sede'",
        "data=digit is unknown",
        "unknown config key 'trainer.device'",
    ],
    "model.norm=x model.stem=y 'a=[1x1 64 >'": ["cannot be read"],
    # syntax
    "'model.blocks.inception_3a=[1x1 64 > 3x3 96]'": [
        "cannot be read; write rows in quotes: 'model.blocks.inception_3a=[\"1x1 64 > 3x3 96\"]'"
    ],
    "seed": ["'seed' cannot be read"],
    "seed = 1": ["'seed' cannot be read; an override is key=value, without spaces", "'=' cannot be read", "'1' cannot be"],
    "optimizer.lr=0,001": [
        "optimizer.lr=0,001 has several values: add -m to sweep over them; as one value, write optimizer.lr=0.001"
    ],
    "data.split.val=0.1,data.split.test=0.2": [
        "'data.split.val=0.1,data.split.test=0.2' cannot be read; put a space, not a comma, between two overrides"
    ],
    "hydra.job.name=a=b": ["'hydra.job.name=a=b' cannot be read; if the value is a text, quote it: 'hydra.job.name=\"a=b\"'"],
    "ckpt=a,b.ckpt": ["ckpt=a,b.ckpt has several values: add -m to sweep over them; as one value, write 'ckpt=\"a,b.ckpt\"'"],
    "data.mean=0.5,0.5": ["as one value, write 'data.mean=[0.5,0.5]'"],
    "--epochs 5": ["unrecognized arguments: --epochs; write overrides as KEY=VALUE"],
    # names of other programs, and what belongs to a group
    "epochs=5": ["unknown config key 'epochs'; did you mean 'trainer.max_epochs'?"],
    "lr=0.1": ["unknown config key 'lr'; did you mean 'optimizer.lr'?"],
    "model.pretrained=true": ["unknown config key 'model.pretrained'; did you mean 'model.weights'?"],
    "model.blocks.xyz=residual": ["model.blocks.xyz is not a stage or endpoint; valid: all, grid28, grid14, "],
    "model=inception_v3 model.blocks.mixed_9z=residual": ["valid: all, grid35, grid17, grid8, conv_1a, "],
    "scheduler=none": ["scheduler=none is unknown; valid: constant, cosine, "],
    "optimizer=Adam": ["optimizer=Adam is unknown; did you mean 'adamw'?"],
    "model={0:64}": ["model={0: 64} must be a network of the Inception family"],
    "model=[0.5]": ["model=0.5 must be a network of the Inception family"],
    "data={a:1}": ["data={'a': 1} is unknown; valid: cifar10"],
    "logger=null": ["logger=null is not an option; did you mean 'none'?"],
    "augmentation=false": ["augmentation=false is not an option; did you mean 'none'?"],
    "logger=[csv,wanbd]": ["logger=wanbd is unknown; did you mean 'wandb'?"],
    "+experiment=quickstart": ["'+experiment': the key is in the config already; write experiment=… without the '+'"],
    "trainer.enable_progress_bar=false": ["'trainer.enable_progress_bar'; for no progress bar, write '~callbacks.progress'"],
    "+trainer.enable_model_summary=false": ["trainer.enable_model_summary=false must be left out; for no summary, write '~"],
    "+trainer.enable_checkpointing=false": ["trainer.enable_checkpointing=false must be left out; "],
    "trainer.foo=1": ["; +trainer.foo=… adds another option"],
    "optimizer.momentum=0.9": ["optimizer has lr, betas, weight_decay; +optimizer.momentum=… adds another"],
    "optimizer._target_=Adam": ["is not on the allow-list; did you mean 'torch.optim.Adam'?"],
    "optimizer._target_=my_parts": ["is not on the allow-list; write an import path, such as my_parts.Mine"],
    "+callbacks.mine=my_parts.Mine": ["callbacks.mine=my_parts.Mine must have a _target_; to add it, write +callbacks.mine."],
    "+callbacks.ema.decay=0.9": ["must have a _target_; callbacks=[default,ema] adds ema"],
    "hydra.launcher=joblib": ["hydra.launcher=joblib must be chosen by hydra/launcher=NAME"],
    "callbacks.my_part.patience=3": ["to add it, write +callbacks.my_part._target_=PATH.OF.CLASS, and + before its options"],
    "~callbacks.progres": ["unknown config key 'callbacks.progres'; did you mean 'callbacks.progress'?"],
    "callbacks.ema.decay=0.9": ["unknown config key 'callbacks.ema.decay'; callbacks=[default,ema] adds ema"],
    "recipe=null": ["recipe=null is not an option; remove the group with '~recipe'"],
    "data=3": ["data=3 is unknown; valid: cifar10"],
    "-m data=digit,3": ["data=digit is unknown; did you mean 'digits'?", "data=3 is unknown"],
    "'data.flip=${nothing}'": ["Interpolation key 'nothing' not found (in data.flip)"],
    "'data.flip=${oc.env:NOT_SET_AT_ALL}'": ["Environment variable 'NOT_SET_AT_ALL' not found"],
    "'ckpt=\\${seed}'": ["ckpt=${seed} must not contain '${' after it is resolved"],
    "seed=1,2 trainer.devices=1,2": ["seed=1,2 has several values: add -m", "trainer.devices=1,2 has several values"],
    "'optimizer.lr=interval(0,1)'": ["optimizer.lr=interval(0,1)"],
    "--nonsense": ["unrecognized arguments: --nonsense"],
    "--cfg jobs": ["invalid choice: 'jobs'"],
    "-m --cfg job": ["--multirun and --cfg cannot be combined"],
    "--resolve": ["--resolve is for --cfg"],
    f"seed={'9' * 5000}": ["a number has at most 4300 digits"],
    "--experimental-rerun x.pickle": ["--experimental-rerun reads a pickle"],
    "--config-dir nowhere": ["nowhere' not found"],
    "--config-dir . experiment=torn": ["torn.yaml"],
    # launchers and sweepers
    "-m hydra/launcher=joblib hydra.launcher.n_jobs=0 seed=1,2": ["hydra.launcher.n_jobs=0 must be"],
    "-m hydra/launcher=joblib hydra.launcher.n_jobs=abc seed=1,2": ["hydra.launcher.n_jobs=abc: Value 'abc'"],
    "-m hydra/launcher=submitit_local hydra.launcher.timeout_min=0 seed=1,2": ["hydra.launcher.timeout_min=0 must be"],
    "-m hydra.sweeper.max_batch_size=0 seed=1,2": ["hydra.sweeper.max_batch_size=0 must be"],
    "-m sweep=blocks hydra.sweeper.variants=[resdual]": [
        "hydra.sweeper.variants=['resdual'] must be a list, each one of parallel"
    ],
    "-m sweep=optuna hydra.sweeper.n_trials=0": ["hydra.sweeper.n_trials=0 must be"],
    "-m sweep=optuna hydra.sweeper.n_jobs=-2 hydra.sweeper.sampler=''": ["n_jobs=-2 must be", "sampler= must be"],
    "sweep.resume=nowhere": ["sweep.resume=nowhere: there is no sweep.json in it"],
}


# Overrides → the error of the library whose class gets the option. It is raised before data are read; one line names the key.
BUILT = {
    "augmentation.transforms.flip.p=1.5": "augmentation.transforms.flip: `p` should be",
    "augmentation.transforms.shift.translate=[2.0,0.0]": "augmentation.transforms.shift: translation values should be",
    "augmentation=inception augmentation.crop.scale=[1,0.1]": "augmentation.crop: Scale and ratio should be",
    "+augmentation.transforms.flip.q=1": "__init__() got an unexpected keyword argument 'q'",
    "trainer.strategy=dpp": "trainer.strategy=dpp: You selected an invalid strategy name: `strategy='dpp'`",
    "trainer.precision=31": "trainer.precision=31: Precision 31 is invalid",
    "trainer.precision=bf16-mix": "trainer.precision=bf16-mix: Precision 'bf16-mix' is invalid",
    "+trainer.max_epoch=3": "got an unexpected keyword argument 'max_epoch'",
    "+trainer.profiler=simpel": "trainer.profiler=simpel: When passing string value for the `profiler`",
    "optimizer.betas=[0.9]": "optimizer.betas=[0.9]",
    "optimizer=sgd optimizer.momentum=0": "optimizer: Nesterov momentum requires a momentum",
    "optimizer=sgd +optimizer.alpha=0.9": "optimizer.alpha is not an option of SGD",
    "+logger.wandb.grup=x": "logger.wandb: unexpected keyword argument 'grup'",
    "callbacks.best.mode=most": "callbacks.best: `mode` can be",
    "+callbacks.rate={_target_:lightning.pytorch.callbacks.LearningRateMonitor,logging_interval:hour}": "callbacks.rate: ",
}


# Values that Hydra's syntax refuses, but that can only be a path
PATHS = [
    *("runs/epoch=3-step=100.ckpt", "größe.ckpt", "~/photos", "a (copy)/b", "runs/[a].ckpt", "it's.ckpt"),
    *('a"b&c', "a=b\\", "a=b\\'\"", "a\\b=c"),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["ckpt", "data.root", "model.weights", "hydra.run.dir", "+callbacks.mine.dirpath"])
def test_a_path_needs_no_quotes(path, key):
    (word,) = readable([f"{key}={path}"])
    assert word != f"{key}={path}" and OverridesParser.create().parse_override(word).value() == path
    assert readable([word]) == [word]


def test_other_values_stay_as_typed():
    words = [
        "-m",
        "ckpt=a=1,b=2",
        "ckpt='a",
        "ckpt=[a",
        "seed=a=b",
        "ckpt=runs/a",
        "data.root=s3://bucket/x",
        "ckpt",
        "=",
        "ckpt=",
    ]
    assert readable(words) == words


def test_the_home_folder_is_expanded_wherever_a_path_is_from(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "data").mkdir()
    text = "\ufeff# @package _global_\ndata: {root: ~/photos, _target_: ~/no}\nckpt: ~nobody_of_this_name/x\n"
    (tmp_path / "data/mine.yaml").write_text(text, encoding="utf-8")  # with the byte order mark of an editor
    install()
    words = readable(["+data@_global_=mine", "model.weights=~", "hydra.run.dir=~/a=b", "logger.wandb.notes='~/note'"])
    cfg = loader(str(tmp_path)).load_configuration("config", words, RunMode.RUN)
    assert (cfg.data.root, cfg.data._target_, cfg.ckpt) == ("/home/me/photos", "~/no", "~nobody_of_this_name/x")
    assert (cfg.model.weights, cfg.hydra.run.dir, cfg.logger.wandb.notes) == ("/home/me", "/home/me/a=b", "~/note")


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("torch.optim.LBFGS", None),
        ("torch.optim.sgd", "torch.optim.SGD"),
        ("torch.optm.SGD", "torch.optim.SGD"),
    ],
)
def test_a_similar_name_has_a_similar_last_part(word, near):
    assert nearest(word, ["torch.optim.SGD", "torch.optim.Adagrad"]) == near


def test_a_line_break_in_an_override_is_escaped(mistake):
    done = mistake("\nmodel=inception_v3")
    assert done.returncode == 2
    (line,) = lines(done.stderr)
    assert line.startswith("error: '\\nmodel=inception_v3' cannot be read")


@pytest.mark.parametrize("part", range(2))  # two parts, so that pytest-xdist can distribute them
def test_what_a_library_refuses_is_one_line_before_the_data_are_read(part, mistake):
    small = " ".join(each for each in SMALL if not each.startswith("data="))
    commands = {f"{small} data=fashion_mnist data.root=nowhere {words}": BUILT[words] for words in list(BUILT)[part::2]}
    answers = json.loads(lines(mistake(main=lambda: answers_to(commands)).stdout)[-1])
    for words, piece in commands.items():
        (line,) = [line for line in answers[words]["said"] if line.startswith("error: ")]
        assert answers[words]["status"] == 2 and piece in line, (words, answers[words])


@pytest.mark.parametrize("part", range(2))  # two parts, so that pytest-xdist can distribute them
def test_every_wrong_value_has_its_line(part, monkeypatch):
    monkeypatch.chdir(ROOT)
    install()
    for words in list(VALUES)[part::2]:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", shlex.split(words), return_hydra_config=True)
        with pytest.raises(ZooError) as error:
            check_composed(cfg, single=True)
        said, pieces = explain_all(error.value), VALUES[words]
        assert len(said) == len(pieces) and all(any(piece in line for line in said) for piece in pieces), (words, said)
        assert all(line.removesuffix(TREE) == one_line(line.removesuffix(TREE)) for line in said)


def answers_to(commands):
    """Run the commands one after the other in this process; print exit status, error lines and new files of each as JSON."""
    found, environment, before = {}, dict(os.environ), set(Path.cwd().rglob("*"))
    for words in commands:
        sys.argv[1:], sys.stderr = shlex.split(words), io.StringIO()
        try:
            app.main()
            status = 0
        except SystemExit as end:
            status = end.code
        except BaseException:
            status = traceback.format_exc()
        left = sorted(map(str, set(Path.cwd().rglob("*")) - before))
        found[words] = {"status": status, "said": lines(sys.stderr.getvalue()), "left": left}
        os.environ.clear()
        os.environ.update(environment)
    print(json.dumps(found))


@pytest.mark.parametrize("part", range(2))  # two parts, so that pytest-xdist can distribute them
def test_every_wrong_command_has_its_lines_and_leaves_nothing_behind(part, mistake, tmp_path):
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "torn.yaml").write_text("trainer: [1")
    commands = list(COMMANDS)[part::2]
    done = mistake(main=lambda: answers_to(commands))
    answers = json.loads(lines(done.stdout)[-1])
    for words in commands:
        answer, pieces = answers[words], COMMANDS[words]
        assert (answer["status"], answer["left"]) == (2, []), (words, answer)
        assert len(answer["said"]) == len(pieces) and all(line.startswith("error: ") for line in answer["said"]), (
            words,
            answer,
        )
        assert all(any(piece in line for line in answer["said"]) for piece in pieces), (words, answer)


@pytest.mark.parametrize("flags", ["--cfg job", "--help"])
def test_a_config_with_mistakes_is_shown_all_the_same(flags, mistake):
    done = mistake(*flags.split(), "seed=-1", "optimizer._target_=os.system")
    assert done.returncode == 0 and lines(done.stdout) and not done.stderr


def test_a_job_with_mistakes_fails_alone(mistake, tmp_path):
    done = mistake("-m", "seed=1,-1", "trainer.max_epochs=0", "hydra.sweep.dir=sweep")
    assert done.returncode == 1
    reasons = [json.loads((tmp_path / f"sweep/{job}/results.json").read_text())["reason"] for job in range(2)]
    assert reasons == [
        "trainer.max_epochs=0 must be a whole number of at least 1",
        "seed=-1 must be a whole number of at least 0; trainer.max_epochs=0 must be a whole number of at least 1",
    ]
    assert "error: job 1: seed=-1 must be" in done.stderr and "error: job 0: trainer.max_epochs=0" in done.stderr


HEAVY_MISTAKES = {
    "more GPUs than there are": (["trainer.devices=64", "trainer.accelerator=gpu"], "trainer.devices=64: this machine has"),
    "a batch that does not divide": (["data.batch_size=9", "trainer.devices=2"], "data.batch_size=9 is not divisible by the 2"),
    "no such checkpoint": (["task=test", "ckpt=none.ckpt"], "ckpt=none.ckpt: none.ckpt does not exist"),
    "nothing to resume": (["ckpt=last"], "ckpt=last: there is no intact checkpoint in"),
    "a file that is no checkpoint": (["task=test", "ckpt=text.ckpt"], "ckpt=text.ckpt is not a readable checkpoint"),
    "fewer classes than the data have": (["data.num_classes=3"], "data.num_classes=3: digits has 10 classes; set"),
    "more classes than the data have": (["data.num_classes=12"], "set data.num_classes=10, and model.num_classes=12 for"),
    "a folder without the files": (
        ["data=fashion_mnist", "data.root=empty", "data.image_size=64"],
        "data.root=empty: no Fashion",
    ),
    "mixup of one image": (["data.batch_size=1", "augmentation.mixup=0.2"], "augmentation.mixup mixes the images of a batch"),
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
