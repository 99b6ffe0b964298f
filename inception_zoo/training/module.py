"""The LightningModule: losses, metrics and optimizer. The network itself contains no training code."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, Metric

from inception_zoo.data.source import Batch
from inception_zoo.network.inception import Inception
from inception_zoo.training.metrics import Evaluation, keep_exact, soft_accuracy
from inception_zoo.training.optimizers import parameter_groups
from inception_zoo.training.schedules import scheduled
from inception_zoo.weights.files import METADATA
from inception_zoo.weights.saving import card_of

METRICS, LOGGED = "train_metrics", "logged"  # keys in checkpoints


class Classifier(L.LightningModule):
    """LightningModule that trains and tests any network of the zoo.

    The training loss is the cross entropy with label smoothing, plus the weighted loss of each auxiliary head. Validation and
    test loss are the plain cross entropy of the logits, so that recipes can be compared. Training accuracy is measured on
    the augmented images; for mixed labels, see `soft_accuracy`.

    Args:
        model: the network.
        optimizer: function that maps parameter groups to an optimizer.
        scheduler: function (optimizer, steps, epoch_steps) → scheduler, or a class of torch; see `schedules.scheduled`.
        label_smoothing: at least 0 and below 1.
        config: the config of the job as plain containers; saved in checkpoints and sent to the loggers.
        layer_decay: learning rate of an endpoint divided by that of the next one, see `inception_zoo.training.optimizers`.
        aux_weight: loss weight of every auxiliary head; None: the weights of the network's table.
        decay_norm_and_bias: apply weight decay to BatchNorm and biases, too; False: to convolutions and matrices only.
        metrics: more metrics of validation and test, by name; see `Evaluation`.
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
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.optimizer, self.scheduler = optimizer, scheduler
        self.label_smoothing, self.layer_decay = label_smoothing, layer_decay
        self.decay_norm_and_bias = decay_norm_and_bias
        self.aux_weights = {tap: head.weight if aux_weight is None else aux_weight for tap, head in model.plan.aux.items()}
        self.train_metrics: Any = nn.ModuleDict({key: MeanMetric() for key in ("loss", "top1", "top5")})
        self.val, self.test = self.evaluation(tables=False, more=metrics), self.evaluation(tables=True, more=metrics)
        self.test_name = "test"  # metric prefix of the test
        self._counted: list[dict[str, Any]] | None = None  # metric states of a resumed epoch
        self._logged = torch.zeros(2)  # sum of the losses of this epoch, and of their weights, when they were last logged
        self.recent_loss: float | None = None  # for the progress bar
        self.save_hyperparameters(dict(config))

    def evaluation(self, tables: bool, more: Mapping[str, Metric] | None) -> Any:
        """Return the metrics of one split; see `Evaluation`."""
        return Evaluation(self.model.plan.num_classes, tables, more)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        images, labels = batch
        outputs = self.model.outputs(images)
        if labels.dim() == 2:  # mixed labels over the data's classes; the network may have more classes
            labels = F.pad(labels, (0, outputs.logits.shape[1] - labels.shape[1]))
        every, smoothing = {"logits": outputs.logits, **outputs.aux}, self.label_smoothing
        losses = {name: F.cross_entropy(logits, labels, label_smoothing=smoothing) for name, logits in every.items()}
        for tap in outputs.aux:
            self.log(f"train/aux_loss/{tap}", losses[tap], batch_size=len(labels))
        logits = outputs.logits.detach().float()
        figures = {"loss": losses["logits"].detach(), **{f"top{k}": soft_accuracy(logits, labels, k) for k in (1, 5)}}
        for key, figure in figures.items():
            self.train_metrics[key].update(figure, weight=len(labels))
        return losses["logits"] + sum(losses[tap] * self.aux_weights[tap] for tap in outputs.aux)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log `train/loss_step` every `log_every_n_steps` steps: the mean loss since the last time, of this process."""
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        total = _sums(self.train_metrics["loss"])
        loss, weight = (total - self._logged.to(total.device)).tolist()
        self._logged, self.recent_loss = total, loss / weight if weight else loss
        self.log("train/loss_step", self.recent_loss)

    def on_fit_start(self) -> None:
        keep_exact(self)  # Lightning has just converted the metrics to its precision, too

    def on_test_start(self) -> None:
        keep_exact(self)

    def on_train_epoch_start(self) -> None:
        self._keep_buffers()

    def on_train_epoch_end(self) -> None:
        self._log("train", self.train_metrics)
        self._logged = torch.zeros(2)

    def on_validation_epoch_start(self) -> None:
        self._share_buffers()
        self._keep_buffers()

    def on_validation_epoch_end(self) -> None:
        self._log("val", self.val.metrics)

    def validation_step(self, batch: Batch, index: int) -> None:
        self._evaluate(self.val, batch)

    def test_step(self, batch: Batch, index: int) -> None:
        self._evaluate(self.test, batch, self.trainer.test_dataloaders.batch_sampler.starts[index])  # type: ignore[union-attr]

    def _keep_buffers(self) -> None:
        """Turn off DDP's broadcast of rank 0's buffers at each batch.

        Only rank 0's buffers are used later, and the broadcast would wait for a rank that has fewer batches.
        """
        if isinstance(wrapper := self.trainer.model, DistributedDataParallel):
            wrapper.broadcast_buffers = False

    def _share_buffers(self) -> None:
        """Copy rank 0's buffers (BatchNorm statistics or their average) to all ranks, so that all evaluate the same network."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def on_test_epoch_start(self) -> None:
        self._share_buffers()
        if self.test.tables is not None:
            self.test.tables.reset()

    def on_test_epoch_end(self) -> None:
        self._log(self.test_name, self.test.metrics)
        assert self.test.tables is not None
        self.test.tables.compute()  # cached by torchmetrics; ranks synchronize here, while the metrics are on their devices

    def _evaluate(self, evaluation: Evaluation, batch: Batch, first: int = 0) -> None:
        images, labels = batch
        if images.dim() == 5:  # several views of each image
            each = self.model(images.flatten(0, 1).contiguous(memory_format=torch.channels_last))
            logits = each.view(*images.shape[:2], -1)
        else:
            logits = self.model(images)
        evaluation.update(logits, labels, images, first)

    def _log(self, phase: str, metrics: Mapping[str, Any]) -> None:
        """Log once per epoch: logging at each batch would take 1% of a short step."""
        for key, metric in metrics.items():
            shown = (phase, key) != ("train", "loss") and phase != "test" and key in ("loss", "top1")
            self.log(f"{phase}/{key}", metric, prog_bar=shown)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[METADATA] = card_of(self.model).plain()
        # Each rank's own state in the current epoch, not the total: a float sum depends on the order of its terms.
        every: list[Any] = [{key: _on_cpu(metric.metric_state) for key, metric in self.train_metrics.items()}]
        every[0][LOGGED] = {"sums": self._logged.cpu()}
        if (count := self.trainer.world_size) > 1:
            mine, every = every[0], [None] * count
            torch.distributed.all_gather_object(every, mine)
        checkpoint[METRICS] = every

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._counted = checkpoint.get(METRICS)

    def on_train_start(self) -> None:
        """Restore the metric states of the epoch that the checkpoint interrupted."""
        counted, self._counted = self._counted, None
        if not counted:
            return
        if len(counted) != self.trainer.world_size:  # another number of ranks: rank 0 gets the sums
            total = {k: {name: sum(c[k][name] for c in counted) for name in counted[0][k]} for k in counted[0]}
            counted = [total if rank == 0 else {} for rank in range(self.trainer.world_size)]
        mine = dict(counted[self.trainer.global_rank])
        self._logged = mine.pop(LOGGED, {}).get("sums", self._logged)
        for key, state in mine.items():
            metric = self.train_metrics[key]
            for name, value in state.items():
                setattr(metric, name, value.to(metric.device))
            metric._update_count = 1

    def _steps_of_an_epoch(self) -> int:
        """Return the number of optimizer steps per epoch.

        `Trainer.estimated_stepping_batches` sets up the data before Lightning has restored the position of a resumed run.
        """
        trainer: Any = self.trainer
        batches, limit = len(trainer.fit_loop._data_source.dataloader()), trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return max(1, math.ceil(batches / trainer.accumulate_grad_batches))

    def configure_optimizers(self) -> Any:
        lr = getattr(self.optimizer, "keywords", {}).get("lr", 0.0)  # from Hydra's partial; used for layer-wise rates only
        groups = parameter_groups(self.model, lr, self.layer_decay, self.decay_norm_and_bias)
        if own := [weight for name, weight in self.named_parameters() if not name.startswith("model.")]:  # of the loss
            groups.append({"params": own, "name": "loss"} | ({"lr": lr} if self.layer_decay != 1 else {}))
        optimizer = self.optimizer(groups)
        epoch_steps, most = self._steps_of_an_epoch(), self.trainer.max_steps
        steps = epoch_steps * max(1, self.trainer.max_epochs or 1)
        steps = steps if most == -1 else min(steps, most)
        scheduler = scheduled(self.scheduler, optimizer, steps=steps, epoch_steps=epoch_steps)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def _sums(metric: MeanMetric) -> Tensor:
    """Return the weighted sum of a metric's values, and the sum of the weights."""
    return torch.stack([metric.mean_value, metric.weight])


def _on_cpu(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}
