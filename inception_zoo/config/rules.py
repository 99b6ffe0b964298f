"""What each key of the config may be: a rule by dotted key, and for what Hydra calls a rule for each option of its.

Imports nothing heavy. What several keys must be together stands in `inception_zoo.config.check`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from inception_zoo.architecture.choices import MEMORY, VALID
from inception_zoo.architecture.nets import ALIASES, ZOO
from inception_zoo.architecture.preprocessing import CROPS, INTERPOLATIONS
from inception_zoo.architecture.variants import BLOCKS
from inception_zoo.config.targets import OPTIMIZERS, TRANSFORMS
from inception_zoo.errors import nearest, shown

MOST = 10**9  # of what is counted: more is a slip of the hand


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words, and whether one is; `names`: what a near miss is compared with."""

    words: str
    fits: Callable[[Any], bool]
    names: tuple[str, ...] = ()

    def __or__(self, other: "Rule") -> "Rule":
        words = f"{self.words} or {other.words}"
        return Rule(words, lambda value: self.fits(value) or other.fits(value), self.names + other.names)

    def mistake(self, key: str, value: Any) -> list[str]:
        """The message, if it is one."""
        if self.fits(value):
            return []
        near = nearest(value, self.names) if isinstance(value, str) else None
        return [f"{key}={shown(value)} must be {self.words}{f'; did you mean {near!r}?' if near else ''}"]


def is_number(value: Any) -> bool:
    """Whether it is finite, and no boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -inf < value < inf


def whole(least: int, most: int = MOST) -> Rule:
    words = f"a whole number of at least {least}" + (f" and at most {most}" if most < MOST else "")
    return Rule(words, lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most)


def number(least: float, most: float = MOST) -> Rule:
    words = f"a number of at least {least}" + (f" and at most {most}" if most < MOST else "")
    return Rule(words, lambda value: is_number(value) and least <= value <= most)


def above(bound: float, most: float = MOST, below: float = inf) -> Rule:
    upper = f", below {below}" if below < inf else f", at most {most}" if most < MOST else ""
    return Rule(f"a number above {bound}{upper}", lambda value: is_number(value) and bound < value <= most and value < below)


def from_to_below(least: float, below: float) -> Rule:
    words = f"a number of at least {least} and below {below}"
    return Rule(words, lambda value: is_number(value) and least <= value < below)


def one_of(*valid: Any) -> Rule:
    names = tuple(each for each in valid if isinstance(each, str))
    words = f"one of {', '.join(dict.fromkeys(map(str, valid)))}" if len(valid) > 1 else str(valid[0])
    return Rule(words, lambda value: not isinstance(value, bool | float | list | dict) and value in valid, names)


def list_of(rule: Rule, length: int | None = None, rising: bool = False) -> Rule:
    """Each as `rule` has it; `rising`: the second not below the first."""
    words = f"a list{'' if length is None else f' of {length}'}, each {rule.words}{', in rising order' if rising else ''}"

    def fits(value: Any) -> bool:
        right = isinstance(value, list | tuple) and length in (None, len(value)) and all(map(rule.fits, value))
        return right and (not rising or list(value) == sorted(value))

    return Rule(words, fits)


ANY = Rule("anything", lambda value: True)
NULL = Rule("null", lambda value: value is None)
FLAG = Rule("true or false", lambda value: isinstance(value, bool))
TEXT = Rule("a text", lambda value: isinstance(value, str))
NAME = Rule("a text that is not empty", lambda value: isinstance(value, str) and value != "" and "\0" not in value)
MAPPING = Rule("names and values, as {name: value}", lambda value: isinstance(value, Mapping))
CALLED = Rule("what a _target_ says", lambda value: isinstance(value, Mapping) and "_target_" in value)
PART = Rule("null, or what a _target_ says", lambda value: value is None or CALLED.fits(value))
SHARE = number(0, 1)
COUNT = whole(1)

SEED = whole(0, 2**32 - 1)
SIDE = whole(1, 8192)  # pixels
KEYS = {
    "task": one_of("fit", "test"),
    "ckpt": NAME | NULL,
    "seed": SEED,
    "label_smoothing": from_to_below(0, 1),
    "aux_weight": number(0) | NULL,
    "lr_for_batch": COUNT | NULL,
    "decay_norm_and_bias": FLAG,
    "layer_decay": above(0, most=1),
    "sweep.resume": TEXT | NULL,
    "sweep.trial": whole(0) | NULL,
    "model.name": one_of(*ZOO, *ALIASES),
    "model.num_classes": whole(1, 10**7),
    "model.in_channels": whole(1, 1024),
    "model.blocks": Rule("stages or endpoints and what stands there", lambda value: isinstance(value, Mapping)),
    "model.aux": FLAG | NULL,
    "model.norm": one_of(*VALID["norm"]) | NULL,
    "model.stem": one_of(*VALID["stem"]) | NULL,
    "model.width": above(0, most=16) | NULL,
    "model.activation": one_of(*VALID["activation"]) | NULL,
    "model.dropout": from_to_below(0, 1) | NULL,
    "model.drop_path": from_to_below(0, 1) | NULL,
    "model.residual_scale": above(0, most=1) | NULL,
    "model.init": one_of(*VALID["init"]) | NULL,
    "model.weights": NAME | NULL,
    "model.adapt": list_of(NAME),
    "model.freeze": NAME | NULL,
    "model.compile": FLAG,
    "model.memory": one_of(*MEMORY),
}
GROUPS = ("model", "data", "augmentation", "trainer", "optimizer", "scheduler", "callbacks", "logger")

# What Hydra calls, by its name: a rule for each option. `...` among them: there are more, for it to check.
Options = Mapping[Any, Rule]
MORE: Options = {...: ANY}
NONE: Options = {}
SPECIAL = {
    "_target_": TEXT,
    "_partial_": FLAG,
    "_recursive_": FLAG,
    "_convert_": one_of("none", "partial", "object", "all"),
    "_args_": list_of(ANY),
}
BATCHES = whole(0) | Rule("a share from 0.0 to 1.0", lambda value: isinstance(value, float) and 0 <= value <= 1) | NULL
OWN = Rule("left out, as the groups callbacks and logger say it", lambda value: False)
TRAINER: Options = {
    "accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps", "tpu"),
    "devices": COUNT
    | Rule("-1 for all GPUs", lambda value: value == -1 and not isinstance(value, bool | float))
    | one_of("auto")
    | Rule(
        "a list of different GPU numbers",
        lambda value: isinstance(value, list) and list_of(whole(0)).fits(value) and 0 < len(value) == len(set(value)),
    ),
    "num_nodes": whole(1, 10**5),
    "strategy": one_of(
        *("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true", "ddp_fork", "ddp_notebook"),
        *("ddp_spawn", "deepspeed", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_2_offload", "deepspeed_stage_3"),
        *("deepspeed_stage_3_offload", "fsdp", "fsdp_cpu_offload", "single_device", "single_xla", "xla"),
    )
    | CALLED,
    "precision": one_of(
        *("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", "32", "16", "bf16", "64"),
        *("transformer-engine", "transformer-engine-float16", 16, 32, 64),
    ),
    "max_epochs": COUNT,
    "min_epochs": COUNT | NULL,
    "max_steps": whole(-1),
    "min_steps": COUNT | NULL,
    "max_time": NAME | MAPPING | NULL,
    **{f"limit_{phase}_batches": BATCHES for phase in ("train", "val", "test", "predict")},
    "overfit_batches": BATCHES,
    "fast_dev_run": FLAG | whole(0),
    "val_check_interval": COUNT | above(0, most=1) | NAME | MAPPING | NULL,
    "check_val_every_n_epoch": COUNT | NULL,
    "accumulate_grad_batches": COUNT,
    "gradient_clip_val": number(0) | NULL,
    "gradient_clip_algorithm": one_of("norm", "value") | NULL,
    "sync_batchnorm": FLAG,
    "log_every_n_steps": COUNT,
    "num_sanity_val_steps": whole(-1) | NULL,
    "deterministic": FLAG | one_of("warn") | NULL,
    "benchmark": FLAG | NULL,
    "default_root_dir": NAME | NULL,
    "enable_checkpointing": FLAG | NULL,
    "enable_progress_bar": FLAG | NULL,
    "enable_model_summary": FLAG | NULL,
    "enable_autolog_hparams": FLAG,
    "inference_mode": FLAG,
    "detect_anomaly": FLAG,
    "barebones": FLAG,
    "profiler": one_of("simple", "advanced", "pytorch") | CALLED | NULL,
    "plugins": CALLED | list_of(CALLED) | NULL,
    "reload_dataloaders_every_n_epochs": whole(0),
    "model_registry": NAME | NULL,
    "callbacks": OWN,
    "logger": OWN,
    "use_distributed_sampler": Rule("left out, as the data share themselves out", lambda value: False),
}
IMAGE_DATA: Options = {
    "source": CALLED,
    "root": Rule("a folder", NAME.fits),
    "num_classes": whole(2, 10**7),
    "in_channels": whole(1, 1024),
    "image_size": SIDE,
    "batch_size": whole(1, 10**7),
    "eval_batch_size": whole(1, 10**7),
    "val_size": COUNT,
    "mean": list_of(number(-MOST)),
    "std": list_of(above(0)),
    "interpolation": one_of(*INTERPOLATIONS),
    "crop_pct": above(0, most=1),
    "crops": one_of(*CROPS),
    "flip": SHARE,
    "progressive": Rule(
        "epochs and sides in pixels, such as '{0:128,10:160}', or null",
        lambda value: value is None or (isinstance(value, Mapping) and all(map(whole(0).fits, value))),
    ),
    "workers": whole(0, 4096) | NULL,
    "seed": SEED,
    "classes": list_of(whole(0)) | NULL,
    "per_class": COUNT | NULL,
}
LR = number(0, 10**4)
BETA = from_to_below(0, 1)
BETAS = list_of(BETA, 2)
OF_OPTIMIZERS: Options = {
    "lr": LR,
    "weight_decay": number(0),
    "momentum": SHARE,
    "betas": list_of(BETA),
    "eps": number(0) | list_of(number(0) | NULL) | NULL,
    "nesterov": FLAG,
    "amsgrad": FLAG,
    "maximize": FLAG,
    "foreach": FLAG | NULL,
    "fused": FLAG | NULL,
    "capturable": FLAG,
    "differentiable": FLAG,
}
OF_ANY_OPTIMIZER: Options = {**OF_OPTIMIZERS, **MORE}
OF_ADAM = {key: OF_OPTIMIZERS[key] for key in OF_OPTIMIZERS if key not in ("momentum", "nesterov")} | {"betas": BETAS}
OF_MUON: Options = {
    "lr": LR,
    "weight_decay": number(0),
    "momentum": SHARE,
    "nesterov": FLAG,
    "ns_steps": whole(1, 100),
    "eps": above(0),
    "safety_factor": number(0),
    "adamw_lr": LR | NULL,
    "betas": BETAS,
    **MORE,
}
OF_RMSPROP: Options = {
    "lr": LR,
    "alpha": SHARE,
    "eps": number(0),
    "momentum": SHARE,
    "weight_decay": number(0),
    **dict.fromkeys(("centered", "decoupled_decay", "corrected_weight_decay", "lr_in_momentum", "caution"), FLAG),
    "foreach": FLAG | NULL,
}
OF_TRANSFORMS: Options = {"p": SHARE | list_of(number(0)) | NULL, **MORE}
SIZE = SIDE | list_of(SIDE, 2)
JITTER = number(0) | list_of(number(0), 2, rising=True) | NULL
OF_LOGGERS: Options = {"save_dir": NAME, "name": NAME | NULL, "version": NAME | whole(0) | NULL, "prefix": TEXT}
CSV: Options = {**OF_LOGGERS, "flush_logs_every_n_steps": COUNT}
WANDB: Options = {
    **OF_LOGGERS,
    **dict.fromkeys(("project", "group", "job_type", "notes", "entity", "id", "dir", "checkpoint_name"), NAME | NULL),
    "notes": TEXT | NULL,
    "tags": list_of(NAME) | NULL,
    "offline": FLAG,
    "log_model": FLAG | one_of("all"),
    "settings": MAPPING | NULL,
    **MORE,
}
EMA: Options = {
    "decay": from_to_below(0, 1),
    "update_every_n_steps": COUNT,
    "update_starting_at_step": whole(0) | NULL,
    "update_starting_at_epoch": whole(0) | NULL,
    "use_buffers": FLAG,
    "device": NAME | whole(0) | NULL,
    **MORE,
}
# of what is logged: what a checkpoint may go by. A metric of one's own is as good, unless it is nearly one of these.
METRICS = (*(f"{phase}/{key}" for phase in ("train", "val") for key in ("loss", "top1", "top5")), "val/macro", "val/ece")
METRIC = Rule(
    "a metric that is logged, such as val/top1",
    lambda value: NAME.fits(value) and (value in METRICS or not nearest(value, METRICS)),
    METRICS,
)
QUEUE: Options = {  # submitit's
    "timeout_min": COUNT,
    "cpus_per_task": COUNT | NULL,
    "gpus_per_node": whole(0) | NULL,
    "tasks_per_node": COUNT,
    "nodes": COUNT,
    "mem_gb": COUNT | NULL,
    "signal_delay_s": whole(0),
    "max_num_timeout": whole(0),
    "array_parallelism": COUNT,
    **MORE,
}
SWEEPER: Options = {"max_batch_size": COUNT | NULL, "params": MAPPING | NULL}
CHECKPOINT: Options = {
    "dirpath": NAME | NULL,
    "filename": NAME | NULL,
    "monitor": METRIC | NULL,
    "mode": one_of("min", "max"),
    "save_top_k": whole(-1),
    "save_last": FLAG | one_of("link") | NULL,
    "every_n_epochs": whole(0) | NULL,
    "every_n_train_steps": whole(0) | NULL,
    "train_time_interval": ANY,
    "save_on_train_epoch_end": FLAG | NULL,
    **dict.fromkeys(("verbose", "save_on_exception", "save_weights_only"), FLAG),
    **dict.fromkeys(("auto_insert_metric_name", "enable_version_counter"), FLAG),
}
OPTIONS: dict[str, Options] = {
    **dict.fromkeys(TRANSFORMS, OF_TRANSFORMS),
    **dict.fromkeys(OPTIMIZERS, OF_ANY_OPTIMIZER),
    "lightning.Trainer": TRAINER,
    "lightning.pytorch.Trainer": TRAINER,
    "torch.optim.SGD": {
        **{key: OF_OPTIMIZERS[key] for key in OF_OPTIMIZERS if key not in ("betas", "eps", "amsgrad", "capturable")},
        "dampening": SHARE,
    },
    "torch.optim.Adam": {**OF_ADAM, "decoupled_weight_decay": FLAG},
    "torch.optim.AdamW": OF_ADAM,
    "timm.optim.RMSpropTF": OF_RMSPROP,
    "timm.optim.rmsprop_tf.RMSpropTF": OF_RMSPROP,
    "timm.optim.Muon": OF_MUON,
    "timm.optim.muon.Muon": OF_MUON,
    "inception_zoo.training.optimizers.Muon": OF_MUON,
    "inception_zoo.training.schedules.constant": NONE,
    "inception_zoo.training.schedules.cosine": {"warmup_epochs": number(0)},
    "inception_zoo.training.schedules.one_cycle": {"warmup": SHARE, "base_momentum": SHARE, "max_momentum": SHARE},
    "inception_zoo.training.schedules.exponential": {
        "factor": above(0, most=1),
        "epochs": above(0),
        "staircase": FLAG,
        "warmup_epochs": number(0),
    },
    "inception_zoo.data.ImageData": IMAGE_DATA,
    "inception_zoo.data.synthetic.synthetic": {
        "num_classes": whole(2, 10**7),
        "in_channels": whole(1, 1024),
        "size": SIDE,
        "train": COUNT,
        "test": COUNT,
        "noise": number(0),
        "seed": SEED,
    },
    "inception_zoo.data.stream.stream": {"cache": NAME | NULL},
    **dict.fromkeys(
        (
            *("inception_zoo.data.fashion_mnist.fashion_mnist", "inception_zoo.data.cifar.cifar10"),
            *("inception_zoo.data.cifar.cifar100", "inception_zoo.data.digits.digits"),
            *("inception_zoo.data.imagefolder.imagefolder", "inception_zoo.data.imagenet.imagenet"),
            *("inception_zoo.training.callbacks.GradientNorm", "inception_zoo.training.callbacks.ImagesPerSecond"),
            "inception_zoo.training.callbacks.PeakMemory",
        ),
        NONE,
    ),
    "inception_zoo.data.Augmentation": {
        "crop": PART,
        "transforms": MAPPING | NULL,
        "erasing": SHARE,
        "mixup": number(0),
        "cutmix": number(0),
    },
    "torchvision.transforms.v2.RandomResizedCrop": {
        **OF_TRANSFORMS,
        "size": SIZE,
        "scale": list_of(above(0), 2, rising=True),
        "ratio": list_of(above(0), 2, rising=True),
    },
    "torchvision.transforms.v2.RandomCrop": {**OF_TRANSFORMS, "size": SIZE},
    "torchvision.transforms.v2.CenterCrop": {**OF_TRANSFORMS, "size": SIZE},
    "torchvision.transforms.v2.RandomHorizontalFlip": {"p": SHARE},
    "torchvision.transforms.v2.RandomVerticalFlip": {"p": SHARE},
    "torchvision.transforms.v2.ColorJitter": {
        **dict.fromkeys(("brightness", "contrast", "saturation"), JITTER),
        "hue": number(0, 0.5) | list_of(number(-0.5, 0.5), 2, rising=True) | NULL,
    },
    "torchvision.transforms.v2.RandAugment": {
        **OF_TRANSFORMS,
        "num_ops": whole(1, 100),
        "magnitude": whole(0, 1000),
        "num_magnitude_bins": whole(2, 1000),
    },
    "torchvision.transforms.v2.TrivialAugmentWide": {**OF_TRANSFORMS, "num_magnitude_bins": whole(2, 1000)},
    "torchvision.transforms.v2.RandomAffine": {
        **OF_TRANSFORMS,
        "degrees": number(0) | list_of(number(-MOST), 2, rising=True),
        "translate": list_of(SHARE, 2) | NULL,
        "scale": list_of(above(0), 2, rising=True) | NULL,
    },
    "inception_zoo.training.callbacks.EMA": EMA,
    "lightning.pytorch.callbacks.EMAWeightAveraging": EMA,
    "inception_zoo.training.callbacks.Unfreeze": {"epoch": COUNT, "to": NAME | NULL},
    "inception_zoo.training.callbacks.ProgressBar": {"folder": NAME},
    "inception_zoo.training.last_checkpoint.LastCheckpoint": {
        "dirpath": NAME,
        "every_n_steps": COUNT | NULL,
        "every_minutes": above(0) | NULL,
        "on_nan": one_of("stop", "rollback"),
        "rollbacks": COUNT,
        "rate_factor": above(0, below=1),
    },
    "lightning.pytorch.callbacks.ModelCheckpoint": CHECKPOINT,
    "lightning.pytorch.callbacks.EarlyStopping": {
        "monitor": METRIC,
        "mode": one_of("min", "max"),
        "patience": whole(0),
        "min_delta": number(-MOST),
        "stopping_threshold": number(-MOST) | NULL,
        "divergence_threshold": number(-MOST) | NULL,
        **dict.fromkeys(("strict", "check_finite", "verbose", "log_rank_zero_only"), FLAG),
        "check_on_train_epoch_end": FLAG | NULL,
    },
    "lightning.pytorch.callbacks.LearningRateMonitor": {
        "logging_interval": one_of("step", "epoch") | NULL,
        "log_momentum": FLAG,
        "log_weight_decay": FLAG,
    },
    "lightning.pytorch.callbacks.RichModelSummary": {"max_depth": whole(-1), **MORE},
    "lightning.pytorch.callbacks.ModelSummary": {"max_depth": whole(-1), **MORE},
    "inception_zoo.tracking.csv_logger.CSVLogger": {"save_dir": NAME, "name": NAME, "flush_logs_every_n_steps": COUNT},
    "lightning.pytorch.loggers.CSVLogger": CSV,
    "inception_zoo.tracking.wandb_logger.WandbLogger": WANDB,
    "lightning.pytorch.loggers.WandbLogger": WANDB,
    "wandb.Settings": {"silent": FLAG, **MORE},
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": {
        "n_jobs": COUNT | Rule("-1 for all cores", lambda value: value == -1),
        "verbose": whole(0),
        "timeout": above(0) | NULL,
        **MORE,
    },
    **dict.fromkeys(
        (
            "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
            "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
        ),
        QUEUE,
    ),
    "hydra_plugins.inception_zoo_launcher.RayLauncher": {"init": MAPPING, "task": MAPPING},
    "hydra_plugins.inception_zoo_sweeper.GridSweeper": {**SWEEPER, "jobs": list_of(list_of(TEXT))},
    "hydra_plugins.inception_zoo_sweeper.BlockSweeper": {**SWEEPER, "variants": list_of(one_of(*BLOCKS))},
    "hydra_plugins.inception_zoo_sweeper.OptunaSweeper": {
        "n_trials": COUNT,
        "n_jobs": whole(1, 10**5),
        "sampler": NAME,
        "sampler_options": MAPPING,
        "pruner": NAME,
        "pruner_options": MAPPING,
        "storage": NAME | NULL,
        "study_name": NAME | NULL,
        "params": MAPPING | NULL,
        **MORE,
    },
}
USUAL = {"trainer": TRAINER, "data": IMAGE_DATA}  # rules of a group whatever is called, as our own code reads these keys
NEEDED = (
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "precision", "max_epochs")),
    *("trainer.accumulate_grad_batches", "trainer.sync_batchnorm", "trainer.log_every_n_steps"),
    *(f"data.{key}" for key in IMAGE_DATA if key not in ("root", "classes", "per_class")),
    *KEYS,
)
OF_HYDRA = {
    "run.dir": NAME,
    "sweep.dir": NAME,
    "output_subdir": NAME | NULL,
    "job.name": NAME,
    "job.chdir": FLAG | NULL,
    "verbose": FLAG | TEXT | list_of(TEXT),
}
LEVEL = one_of("CRITICAL", "FATAL", "ERROR", "WARN", "WARNING", "INFO", "DEBUG", "NOTSET") | whole(0)  # of Python's logging
