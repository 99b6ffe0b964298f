"""What a config may have called: exact names, as a config may be a stranger's. Imports nothing.

Hydra imports and calls what `_target_` says, logging what `class` and `()` say, and a block may be a function by its path.
The only door for one's own is the environment, which no config can write: ``INCEPTION_ZOO_TARGETS=my_parts.Mine,rows.squeeze``.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inception_zoo.errors import nearest, shown

VARIABLE = "INCEPTION_ZOO_TARGETS"


def _within(module: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{module}.{name}" for name in names)


DATA = (  # all that a checkpoint's data may name
    *_within("inception_zoo.data", "ImageData", "fashion_mnist.fashion_mnist", "cifar.cifar10", "cifar.cifar100"),
    *_within("inception_zoo.data", "digits.digits", "synthetic.synthetic", "imagefolder.imagefolder", "imagenet.imagenet"),
    "inception_zoo.data.stream.stream",
)
TRANSFORMS = _within(
    "torchvision.transforms.v2",
    *("AugMix", "AutoAugment", "CenterCrop", "ColorJitter", "Compose", "ElasticTransform", "GaussianBlur", "GaussianNoise"),
    *("Grayscale", "Identity", "JPEG", "Pad", "RandAugment", "RandomAdjustSharpness", "RandomAffine", "RandomApply"),
    *("RandomAutocontrast", "RandomChannelPermutation", "RandomChoice", "RandomCrop", "RandomEqualize", "RandomErasing"),
    *(
        "RandomGrayscale",
        "RandomHorizontalFlip",
        "RandomInvert",
        "RandomOrder",
        "RandomPerspective",
        "RandomPhotometricDistort",
    ),
    *("RandomPosterize", "RandomResizedCrop", "RandomRotation", "RandomSolarize", "RandomVerticalFlip", "RandomZoomOut"),
    *("Resize", "ScaleJitter", "TrivialAugmentWide"),
)
OPTIMIZERS = (
    *_within("torch.optim", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "Muon", "NAdam", "RAdam"),
    *_within("torch.optim", "RMSprop", "Rprop", "SGD"),
    *_within("timm.optim", "AdaBelief", "Adafactor", "AdafactorBigVision", "AdamP", "Adan", "Adopt", "Lamb", "LaProp", "Lars"),
    *_within("timm.optim", "Lion", "MADGRAD", "Mars", "Muon", "NAdamW", "RMSpropTF", "SGDP", "SGDW"),
    *("timm.optim.muon.Muon", "timm.optim.rmsprop_tf.RMSpropTF", "inception_zoo.training.optimizers.Muon"),
)
ALLOWED = frozenset(
    (
        *DATA,
        *TRANSFORMS,
        *OPTIMIZERS,
        *(
            "inception_zoo.data.Augmentation",
            "inception_zoo.training.callbacks.Unfreeze",
            "inception_zoo.training.callbacks.ProgressBar",
        ),
        *_within("inception_zoo.training.callbacks", "EMA", "GradientNorm", "ImagesPerSecond", "PeakMemory"),
        *_within("inception_zoo.training.schedules", "constant", "cosine", "exponential", "one_cycle"),
        *("inception_zoo.training.last_checkpoint.LastCheckpoint", "inception_zoo.tracking.csv_logger.CSVLogger"),
        "inception_zoo.tracking.wandb_logger.WandbLogger",
        *("lightning.Trainer", "lightning.pytorch.Trainer", "wandb.Settings"),
        *_within("lightning.pytorch.callbacks", "DeviceStatsMonitor", "EarlyStopping", "EMAWeightAveraging"),
        *_within("lightning.pytorch.callbacks", "GradientAccumulationScheduler", "LearningRateMonitor", "ModelCheckpoint"),
        *_within("lightning.pytorch.callbacks", "ModelSummary", "RichModelSummary", "RichProgressBar"),
        *_within("lightning.pytorch.callbacks", "StochasticWeightAveraging", "ThroughputMonitor", "Timer", "TQDMProgressBar"),
        *_within("lightning.pytorch.loggers", "CSVLogger", "MLFlowLogger", "TensorBoardLogger", "WandbLogger"),
        *_within("lightning.pytorch.profilers", "AdvancedProfiler", "PyTorchProfiler", "SimpleProfiler"),
        *_within("lightning.pytorch.strategies", "DDPStrategy", "DeepSpeedStrategy", "FSDPStrategy", "SingleDeviceStrategy"),
        "lightning.pytorch.plugins.environments.SLURMEnvironment",
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "hydra.experimental.callbacks.LogJobReturnCallback",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        *_within("hydra_plugins.hydra_submitit_launcher.submitit_launcher", "LocalLauncher", "SlurmLauncher"),
        "hydra_plugins.inception_zoo_launcher.RayLauncher",
        *_within("hydra_plugins.inception_zoo_sweeper", "BlockSweeper", "GridSweeper", "OptunaSweeper"),
    )
)
LOGGING = frozenset(
    (
        *_within("logging", "FileHandler", "Formatter", "NullHandler", "StreamHandler"),
        *_within("logging.handlers", "RotatingFileHandler", "TimedRotatingFileHandler"),
        *("colorlog.ColoredFormatter", "rich.logging.RichHandler", "ext://sys.stdout", "ext://sys.stderr"),
    )
)
_PATH = re.compile(r"(?<![\w.])[^\W\d]\w*(?:\.[^\W\d]\w*)+")  # of a function, in a word
_BLOCK = re.compile(r"\+{0,2}model\.blocks\b[^=]*=")
_FOR_OTHERS = re.compile(r"INCEPTION_ZOO_|PYTHON|LD_|DYLD_|PATH$")  # variables that open this door, or another


def own() -> set[str]:
    """The names that the environment allows besides."""
    return {name.strip() for name in os.environ.get(VARIABLE, "").split(",")} - {""}


def trust_words(words: Sequence[str]) -> None:
    """Allow the block functions that a user has typed, here and in the processes that are started from here."""
    typed = [path for word in words if (block := _BLOCK.match(word)) for path in _PATH.findall(word[block.end() :])]
    if typed:
        os.environ[VARIABLE] = ",".join(sorted(own().union(typed)))


def targets_in(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Key and value of every `_target_`, at any depth."""
    for name, child in children(node):
        inner = f"{key}.{name}" if key else str(name)
        if name == "_target_" and isinstance(node, Mapping):
            yield inner, child
        yield from targets_in(child, inner)


def refused_targets(config: Mapping[str, Any], key: str = "") -> list[str]:
    """A message for each `_target_` that may not be called; `config` is plain, every value final."""
    allowed = ALLOWED | own()
    return [
        _refusal(inner, target, ALLOWED)
        for inner, target in targets_in(config, key)
        if not isinstance(target, str) or target not in allowed
    ]


def refused_blocks(blocks: Any, key: str = "model.blocks") -> list[str]:
    """A message for each function that is given for a block by its path and may not be called."""
    pairs = blocks.items() if isinstance(blocks, Mapping) else ()
    return [
        f"{key}.{name}={choice} is not allowed where the command line does not say it, as it runs code of somebody's; "
        f"if it is yours: {VARIABLE}={choice}"
        for name, choice in pairs
        if isinstance(choice, str) and "." in choice and choice not in own()
    ]


def refused_logging(node: Any, key: str) -> list[str]:
    """A message for each class or object that a config of Python's logging may not name."""
    found = []
    for name, child in children(node):
        inner = f"{key}.{name}"
        called = name in ("class", "()") and isinstance(node, Mapping)
        if (called or (isinstance(child, str) and "://" in child.partition(" ")[0])) and (
            not isinstance(child, str) or child not in LOGGING | own()
        ):
            found.append(_refusal(inner, child, LOGGING))
        found += refused_logging(child, inner)
    return found


def refused_variables(variables: Any, key: str = "hydra.job.env_set") -> list[str]:
    """A message for each variable of the environment that a config may not set, as it decides what code is run."""
    names = map(str, variables) if isinstance(variables, Mapping) else ()
    return [f"{key}.{name} is not allowed; set {name} before you start" for name in names if _FOR_OTHERS.match(name)]


def children(node: Any) -> Iterator[tuple[Any, Any]]:
    """What stands in a mapping or list, by key or number; nothing stands in anything else."""
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, list | tuple):
        yield from enumerate(node)


def _refusal(key: str, target: Any, valid: frozenset[str]) -> str:
    near = nearest(target, valid) if isinstance(target, str) else None
    meant = f"; did you mean '{near}'?" if near else ""
    door = f"; if it is yours: {VARIABLE}={target}" if isinstance(target, str) and target else ""
    return f"{key}={shown(target)} is not allowed{meant}{door}"
