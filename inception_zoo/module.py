"""The LightningModule: losses, metrics, optimizer. The network itself knows nothing of training."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from inception_zoo.data.source import Batch
from inception_zoo.finetune import parameter_groups
from inception_zoo.network import Inception
from inception_zoo.weights.files import METADATA
from inception_zoo.weights.saving import card_of


class Classifier(L.LightningModule):
    """Trains any network of the zoo.

    The training loss is cross entropy with label smoothing, plus that of each auxiliary head times the weight in the
    network's table. Validation and test loss are the plain cross entropy of the logits, comparable between recipes.

    Args:
        model: the network.
        optimizer: parameters → optimizer.
        scheduler: (optimizer, steps, epoch_steps) → scheduler, see `inception_zoo.schedules`.
        label_smoothing: 0 to below 1.
        config: plain containers, kept in checkpoints and sent to the loggers.
        layer_decay: learning rate of an endpoint over that of the next, see `inception_zoo.finetune`.
    """

    def __init__(
        self,
        model: Inception,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler],
        label_smoothing: float,
        config: Mapping[str, Any],
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.optimizer, self.scheduler = optimizer, scheduler
        self.label_smoothing, self.layer_decay = label_smoothing, layer_decay
        self.metrics = nn.ModuleDict({phase: self._metrics() for phase in ("train_", "val_", "test_")})
        self.save_hyperparameters(dict(config))

    def _metrics(self) -> nn.ModuleDict:
        classes = self.model.plan.num_classes
        accuracy = MetricCollection(
            {f"top{k}": MulticlassAccuracy(classes, top_k=min(k, classes), average="micro") for k in (1, 5)}
        )
        return nn.ModuleDict({"accuracy": accuracy, "loss": MeanMetric()})

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        images, labels = batch
        outputs = self.model.outputs(images)
        losses = {
            name: F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
            for name, logits in {"logits": outputs.logits, **outputs.aux}.items()
        }
        for tap in outputs.aux:
            self.log(f"train/aux_loss/{tap}", losses[tap], batch_size=len(labels))
        self._log("train", outputs.logits, labels, losses["logits"])
        return losses["logits"] + sum(losses[tap] * self.model.plan.aux[tap].weight for tap in outputs.aux)

    def validation_step(self, batch: Batch, index: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, index: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, phase: str, batch: Batch) -> None:
        images, labels = batch
        logits = self.model(images)
        self._log(phase, logits, labels, F.cross_entropy(logits, labels))

    def _log(self, phase: str, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        metrics: Any = self.metrics[f"{phase}_"]  # ModuleDict has a method `train`, hence the underscore
        metrics["accuracy"].update(logits.detach().float(), labels)
        metrics["loss"].update(loss.detach(), weight=len(labels))
        each = {f"{phase}/loss": metrics["loss"], **{f"{phase}/{key}": m for key, m in metrics["accuracy"].items()}}
        self.log_dict(each, on_step=False, on_epoch=True, prog_bar=phase != "test", batch_size=len(labels))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[METADATA] = card_of(self.model).plain()

    def configure_optimizers(self) -> Any:
        lr = getattr(self.optimizer, "keywords", {}).get("lr", 0.0)  # of Hydra's partial; read where layers differ
        optimizer = self.optimizer(parameter_groups(self.model, lr, self.layer_decay))
        steps = int(self.trainer.estimated_stepping_batches)
        epochs = max(1, self.trainer.max_epochs or 1)
        scheduler = self.scheduler(optimizer, steps=steps, epoch_steps=max(1, steps // epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
