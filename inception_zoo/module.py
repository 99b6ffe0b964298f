"""The LightningModule: losses, metrics, optimizer. The network itself knows nothing of training."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from inception_zoo.data.source import Batch
from inception_zoo.evaluation import Evaluation, keep_exact, soft_accuracy
from inception_zoo.finetune import parameter_groups
from inception_zoo.network import Inception
from inception_zoo.weights.files import METADATA
from inception_zoo.weights.saving import card_of


class Classifier(L.LightningModule):
    """Trains any network of the zoo.

    The training loss is cross entropy with label smoothing, plus that of each auxiliary head times the weight in the
    network's table. Validation and test loss are the plain cross entropy of the logits, comparable between recipes. Training
    accuracy is of the images as they are trained on: the share of the mixed labels that was hit, where labels are mixed.

    Args:
        model: the network.
        optimizer: parameters → optimizer.
        scheduler: (optimizer, steps, epoch_steps) → scheduler, see `inception_zoo.schedules`.
        label_smoothing: 0 to below 1.
        config: plain containers, kept in checkpoints and sent to the loggers.
        layer_decay: learning rate of an endpoint over that of the next, see `inception_zoo.finetune`.
        aux_weight: of every auxiliary head's loss; the table's when left out.
        decay_norm_and_bias: False: only convolutions and matrices decay.
    """

    def __init__(
        self,
        model: Inception,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler],
        label_smoothing: float,
        config: Mapping[str, Any],
        layer_decay: float = 1.0,
        aux_weight: float | None = None,
        decay_norm_and_bias: bool = True,
    ) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.optimizer, self.scheduler = optimizer, scheduler
        self.label_smoothing, self.layer_decay = label_smoothing, layer_decay
        self.decay_norm_and_bias = decay_norm_and_bias
        self.aux_weights = {tap: head.weight if aux_weight is None else aux_weight for tap, head in model.plan.aux.items()}
        self.train_metrics: Any = nn.ModuleDict({key: MeanMetric() for key in ("loss", "top1", "top5")})
        classes = model.plan.num_classes
        self.val, self.test = Evaluation(classes, tables=False), Evaluation(classes, tables=True)
        self.test_name = "test"  # what the test logs under
        self.save_hyperparameters(dict(config))

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        images, labels = batch
        outputs = self.model.outputs(images)
        if labels.dim() == 2:  # mixed, of the data's classes; the network may have spare ones
            labels = F.pad(labels, (0, outputs.logits.shape[1] - labels.shape[1]))
        losses = {
            name: F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
            for name, logits in {"logits": outputs.logits, **outputs.aux}.items()
        }
        for tap in outputs.aux:
            self.log(f"train/aux_loss/{tap}", losses[tap], batch_size=len(labels))
        logits, metrics = outputs.logits.detach().float(), dict(self.train_metrics.items())
        figures = {"loss": losses["logits"].detach(), **{f"top{k}": soft_accuracy(logits, labels, k) for k in (1, 5)}}
        for key, figure in figures.items():
            metrics[key].update(figure, weight=len(labels))
        self._log("train", metrics, len(labels))
        return losses["logits"] + sum(losses[tap] * self.aux_weights[tap] for tap in outputs.aux)

    def on_fit_start(self) -> None:
        keep_exact(self)  # Lightning has just converted everything to its precision

    def on_test_start(self) -> None:
        keep_exact(self)

    def on_validation_epoch_start(self) -> None:
        self._share_buffers()
        if isinstance(wrapper := self.trainer.model, DistributedDataParallel):
            wrapper.broadcast_buffers = False  # with each batch, for which it would wait for processes that have fewer

    def on_validation_epoch_end(self) -> None:
        if isinstance(wrapper := self.trainer.model, DistributedDataParallel):
            wrapper.broadcast_buffers = True

    def validation_step(self, batch: Batch, index: int) -> None:
        self._evaluate("val", self.val, batch, index)

    def test_step(self, batch: Batch, index: int) -> None:
        self._evaluate(self.test_name, self.test, batch, index)

    def _share_buffers(self) -> None:
        """Every process evaluates the same network: BatchNorm statistics, or their average, are rank 0's."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def on_test_epoch_start(self) -> None:
        self._share_buffers()
        assert self.test.tables is not None
        self.test.tables.reset()

    def on_test_epoch_end(self) -> None:
        assert self.test.tables is not None
        self.test.tables.compute()  # kept by torchmetrics; here every process is on its device

    def _evaluate(self, phase: str, evaluation: Evaluation, batch: Batch, index: int) -> None:
        images, labels = batch
        if images.dim() == 5:  # several views of each image
            each = self.model(images.flatten(0, 1).contiguous(memory_format=torch.channels_last))
            logits = each.view(*images.shape[:2], -1)
        else:
            logits = self.model(images)
        self._log(phase, evaluation.update(logits, labels, images, index), len(labels))

    def _log(self, phase: str, metrics: Mapping[str, Any], count: int) -> None:
        for key, metric in metrics.items():
            shown = phase != "test" and key in ("loss", "top1")
            self.log(f"{phase}/{key}", metric, on_step=False, on_epoch=True, prog_bar=shown, batch_size=count)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[METADATA] = card_of(self.model).plain()

    def configure_optimizers(self) -> Any:
        lr = getattr(self.optimizer, "keywords", {}).get("lr", 0.0)  # of Hydra's partial; read where layers differ
        optimizer = self.optimizer(parameter_groups(self.model, lr, self.layer_decay, self.decay_norm_and_bias))
        steps = int(self.trainer.estimated_stepping_batches)
        epochs = max(1, self.trainer.max_epochs or 1)
        scheduler = self.scheduler(optimizer, steps=steps, epoch_steps=max(1, steps // epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
