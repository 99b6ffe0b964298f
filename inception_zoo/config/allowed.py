# ruff: noqa: SIM905, I001 -- lists of names are easier to read as text
"""The allow-list of targets by exact name, with rules for the options of this package; libraries check their own options.

A config may be untrusted, and Hydra imports and calls every `_target_`. A target that is not on the list is refused.
"""

from collections.abc import Mapping
from typing import Any

from inception_zoo.architecture.variants import BLOCKS
from inception_zoo.config.rules import ANY, COUNT, FLAG, IMAGE_DATA, MAPPING, METRIC, NAME, NULL, OPTIMIZER, PART, SCHEDULER
from inception_zoo.config.rules import LOSSES, SHARE, SIDE, TEXT, TRAINER, Options, above, list_of, number, one_of, whole

MORE: Options = {...: ANY}
NONE: Options = {}


def _within(module: str, *names: str, rules: Options = MORE) -> dict[str, Options]:
    return {f"{module}.{name}": rules for name in names}


EMA: Options = {"decay": number(0, below=1), "warmup": FLAG, "update_every_n_steps": COUNT, **MORE}
WATCHING: Options = {"monitor": METRIC | NULL, **MORE}  # Lightning reports a metric that is not logged only after an epoch
EPOCHS = COUNT | above(0, below=1)
SWEEPER: Options = {"max_batch_size": COUNT | NULL, "params": MAPPING | NULL}
QUEUE: Options = {"timeout_min": COUNT, "nodes": COUNT, "tasks_per_node": COUNT, **MORE}  # options of submitit
WANDB: Options = {"offline": FLAG, "tags": list_of(NAME) | NULL, **MORE}
SYNTHETIC: Options = {
    **{key: IMAGE_DATA[key] for key in ("num_classes", "in_channels", "seed")},
    **{"size": SIDE, "train": COUNT, "test": COUNT, "noise": number(0)},
}
AUGMENTATION: Options = {"crop": PART, "transforms": MAPPING | NULL, "erasing": SHARE, "mixup": number(0), "cutmix": number(0)}
TABLE: Options = {
    **{"path": NAME, "label": NAME | list_of(NAME)},
    **dict.fromkeys(("separator", "weight", "split", "group", "images"), NAME | NULL),
    "probabilities": FLAG,
    "subgroups": list_of(NAME) | NULL,
}
DECAY: Options = {"factor": above(0, most=1), "epochs": above(0), "staircase": FLAG, "warmup_epochs": number(0)}
SAVING: Options = {"dirpath": NAME, "every_n_steps": COUNT | NULL, "every_minutes": above(0) | NULL}
ON_NAN: Options = {"on_nan": one_of("stop", "rollback"), "rollbacks": COUNT, "rate_factor": above(0, below=1)}
SEARCH: Options = {"n_trials": COUNT, "n_jobs": whole(1, 10**5), "sampler": NAME, "pruner": NAME, **MORE}
DATA = {  # the only targets that the data config in a checkpoint can use
    "inception_zoo.data.ImageData": IMAGE_DATA,
    **_within("inception_zoo.data", "fashion_mnist.fashion_mnist", "cifar.cifar10", "cifar.cifar100", rules=NONE),
    **_within("inception_zoo.data", "digits.digits", "imagefolder.imagefolder", "imagenet.imagenet", rules=NONE),
    "inception_zoo.data.synthetic.synthetic": SYNTHETIC,
    "inception_zoo.data.table.table": TABLE,
    "inception_zoo.data.stream.stream": {"cache": NAME | NULL},
    "inception_zoo.data.hf.hf": {"name": NAME | NULL, "revision": NAME | NULL, "image": NAME, "label": NAME},
}
_TRANSFORMS = """
AugMix AutoAugment CenterCrop ColorJitter Compose ElasticTransform GaussianBlur GaussianNoise Grayscale Identity JPEG
Pad RandomAdjustSharpness RandomAffine RandomApply RandomAutocontrast RandomChannelPermutation RandomChoice RandomCrop
RandomEqualize RandomErasing RandomGrayscale RandomHorizontalFlip RandomInvert RandomOrder RandomPerspective
RandomPhotometricDistort RandomPosterize RandomResizedCrop RandomRotation RandomSolarize RandomVerticalFlip
RandomZoomOut Resize ScaleJitter TrivialAugmentWide""".split()
_OF_TORCH = "Adadelta Adafactor Adagrad Adam AdamW Adamax ASGD Muon NAdam RAdam RMSprop Rprop SGD".split()
_SCHEDULERS = """
ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR LinearLR MultiStepLR OneCycleLR
PolynomialLR ReduceLROnPlateau StepLR""".split()
_OF_TIMM = """
AdaBelief Adafactor AdafactorBigVision AdamP Adan Adopt Lamb LaProp Lars Lion MADGRAD Mars Muon NAdamW RMSpropTF SGDP
SGDW muon.Muon rmsprop_tf.RMSpropTF""".split()
_OF_METRIC_LEARNING = """
losses.ArcFaceLoss losses.CircleLoss losses.ContrastiveLoss losses.CosFaceLoss losses.MultiSimilarityLoss
losses.NormalizedSoftmaxLoss losses.NTXentLoss losses.ProxyAnchorLoss losses.SubCenterArcFaceLoss losses.SupConLoss
losses.TripletMarginLoss distances.CosineSimilarity distances.LpDistance""".split()
_OF_LIGHTNING = """
callbacks.DeviceStatsMonitor callbacks.GradientAccumulationScheduler callbacks.LearningRateMonitor
callbacks.ModelSummary callbacks.RichModelSummary callbacks.RichProgressBar callbacks.StochasticWeightAveraging
callbacks.ThroughputMonitor callbacks.Timer callbacks.TQDMProgressBar loggers.CSVLogger loggers.MLFlowLogger
loggers.TensorBoardLogger profilers.AdvancedProfiler profilers.PyTorchProfiler profilers.SimpleProfiler
strategies.DDPStrategy strategies.DeepSpeedStrategy strategies.FSDPStrategy strategies.SingleDeviceStrategy
plugins.environments.SLURMEnvironment""".split()
TARGETS: Mapping[str, Options] = {
    **DATA,
    "inception_zoo.data.Augmentation": AUGMENTATION,
    **_within("torchvision.transforms.v2", *_TRANSFORMS),
    "torchvision.transforms.v2.RandAugment": {"num_ops": COUNT, **MORE},
    **_within("torch.optim", *_OF_TORCH, rules=OPTIMIZER),
    **_within("timm.optim", *_OF_TIMM, rules=OPTIMIZER),
    "inception_zoo.training.muon.Muon": OPTIMIZER,
    **_within("torch.optim.lr_scheduler", *_SCHEDULERS, rules=SCHEDULER),
    "inception_zoo.training.schedules.constant": NONE,
    "inception_zoo.training.schedules.cosine": {"warmup_epochs": number(0)},
    "inception_zoo.training.schedules.one_cycle": {"warmup": SHARE, "base_momentum": SHARE, "max_momentum": SHARE},
    "inception_zoo.training.schedules.exponential": DECAY,
    **_within("pytorch_metric_learning", *_OF_METRIC_LEARNING),
    **_within(LOSSES, "CrossEntropy", "BinaryCrossEntropy", rules=NONE),
    **_within(LOSSES, "Focal", "BinaryFocal", rules={"gamma": number(0)}),
    f"{LOSSES}.Asymmetric": {"gamma_positive": number(0), "gamma_negative": number(0), "margin": number(0, below=1)},
    **_within("inception_zoo.training.callbacks", "GradientNorm", "ImagesPerSecond", "PeakMemory", rules=NONE),
    "inception_zoo.training.callbacks.EMA": EMA,
    "inception_zoo.training.callbacks.Unfreeze": {"epoch": EPOCHS, "to": NAME | NULL, "every": EPOCHS | NULL},
    "inception_zoo.training.callbacks.ProgressBar": {"folder": NAME},
    "inception_zoo.training.last_checkpoint.LastCheckpoint": {**SAVING, **ON_NAN},
    "inception_zoo.tracking.csv_logger.CSVLogger": {"save_dir": NAME, "name": NAME, "flush_logs_every_n_steps": COUNT},
    **_within("inception_zoo.tracking", "tensorboard_logger.TensorBoardLogger", "mlflow_logger.MLFlowLogger"),
    **dict.fromkeys(("inception_zoo.tracking.wandb_logger.WandbLogger", "lightning.pytorch.loggers.WandbLogger"), WANDB),
    **dict.fromkeys(("lightning.Trainer", "lightning.pytorch.Trainer"), TRAINER),
    **_within("lightning.pytorch", *_OF_LIGHTNING) | _within("inception_zoo.training.callbacks", "ModelSummary"),
    **_within("lightning.pytorch.callbacks", "EarlyStopping", "ModelCheckpoint", rules=WATCHING),
    **_within("inception_zoo.training", "best_checkpoint.BestCheckpoint", "callbacks.EarlyStopping", rules=WATCHING),
    "lightning.pytorch.callbacks.EMAWeightAveraging": {key: rule for key, rule in EMA.items() if key != "warmup"},
    **dict.fromkeys(("wandb.Settings", "hydra.experimental.callbacks.LogJobReturnCallback"), MORE),
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher": MORE,
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": {"n_jobs": COUNT | one_of(-1), **MORE},
    **_within("hydra_plugins.hydra_submitit_launcher.submitit_launcher", "LocalLauncher", "SlurmLauncher", rules=QUEUE),
    "hydra_plugins.inception_zoo_launcher.RayLauncher": {"init": MAPPING, "task": MAPPING},
    "hydra_plugins.inception_zoo_sweeper.GridSweeper": {**SWEEPER, "jobs": list_of(list_of(TEXT))},
    "hydra_plugins.inception_zoo_sweeper.BlockSweeper": {**SWEEPER, "variants": list_of(one_of(*BLOCKS))},
    "hydra_plugins.inception_zoo_sweeper.OptunaSweeper": SEARCH,
}
# What a file may set below `hydra`. A file is a YAML that is not of this package, and the words of a saved sweep or an agent.
_VARIABLES = """
CUDA_LAUNCH_BLOCKING CUDA_VISIBLE_DEVICES GLOO_SOCKET_IFNAME MKL_NUM_THREADS NCCL_DEBUG NCCL_IB_DISABLE NCCL_P2P_DISABLE
NCCL_SOCKET_IFNAME OMP_NUM_THREADS OPENBLAS_NUM_THREADS PYTORCH_CUDA_ALLOC_CONF TORCH_DISTRIBUTED_DEBUG WANDB_SILENT""".split()
_OF_HYDRA = """
hydra_logging.root.level job.chdir job.name job_logging.root.level launcher.account launcher.constraint launcher.partition
launcher.qos launcher.stderr_to_stdout mode sweeper.pruner sweeper.sampler sweeper.study_name sweeper.variants
verbose""".split()
# Regular expression of the values, by exact key; `...`: for every other option of launchers and sweepers.
FOR_FILES: dict[Any, str] = {
    **dict.fromkeys((*(f"job.env_set.{name}" for name in _VARIABLES), *_OF_HYDRA), r"(?!\.)[\w.,:+-]*"),
    **{"job.env_set.WANDB_MODE": "offline|disabled|dryrun", ...: r"-?\d+(\.\d+)?"},
    **dict.fromkeys(("run.dir", "sweep.dir"), "(outputs|multirun)/.*"),
    "sweep.subdir": r"(?!.*\.\.)[^/\\~]*",
}
