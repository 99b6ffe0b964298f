"""Callback that logs the facts of a run, a drawing of the network and the first training images to W&B."""

from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from lightning import Callback, Trainer
from lightning.pytorch import loggers
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image
from torchvision.utils import make_grid

from inception_zoo.data.labels import names_of
from inception_zoo.data.pixels import as_pictures
from inception_zoo.describe.drawing import network_figure
from inception_zoo.tracking.service import STEP, log_content, warned

if TYPE_CHECKING:
    import wandb

SUMMARIES = {"val/top1": "max", "val/loss": "min"}  # which value of each metric W&B's run summary shows
SAMPLES = 32


class Tracking(Callback):
    """Callback that logs the content of W&B that is not a metric.

    It logs the facts of the run, a drawing of the network, and the first training images after augmentation.

    Args:
        facts: content of results.json that is known so far.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts, self.begun, self.seen = facts, False, False

    @rank_zero_only
    def _begin(self, trainer: Trainer, pl_module: Any) -> None:
        if self.begun:
            return
        self.begun = True
        with warned("the facts of the run"):
            run, plan = _run_of(trainer), pl_module.model.plan
            for metric, summary in SUMMARIES.items():
                run.define_metric(metric, step_metric=STEP, summary=summary)
            run.summary.update(dict(self.facts))
            with warned("the drawing of the network"):
                log_content(run, trainer.global_step, network=_network(plan, self.facts["image_size"]))

    on_fit_start = on_test_start = _begin

    @rank_zero_only
    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if not self.seen:
            self.seen = True
            with warned("the first training images"):
                images, labels, *_ = (part[:SAMPLES] for part in batch)
                log_content(_run_of(trainer), trainer.global_step, **{"train/images": _sheet(pl_module.model, images, labels)})


def _run_of(trainer: Trainer) -> "wandb.Run":
    return next(logger.experiment for logger in trainer.loggers if isinstance(logger, loggers.WandbLogger))


def _network(plan: Any, image_size: int) -> "wandb.Image":
    import wandb

    file = BytesIO()
    network_figure(plan, image_size).savefig(file, format="png", dpi=96)
    return wandb.Image(Image.open(file))


def _sheet(model: Any, images: Any, labels: Any) -> "wandb.Image":
    """Draw images (N, C, H, W), with their labels as caption; for mixed or soft labels, the one with the largest share."""
    import wandb

    pixels = as_pictures(images, model.preprocessing)
    planes = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    grid = make_grid(planes, nrow=8, pad_value=255).permute(1, 2, 0)
    if labels.dim() == 2 and not model.decision.several:
        labels = labels.argmax(1)
    names = names_of(labels, model.classes or list(map(str, range(model.plan.num_classes))))
    kind = "png" if images.shape[-1] <= 96 else "jpg"
    return wandb.Image(Image.fromarray(grid.numpy()), caption=", ".join(names), file_type=kind)
