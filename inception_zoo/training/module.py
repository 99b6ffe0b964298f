"""The LightningModule: losses, metrics and optimizer. The network itself contains no training code."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, Metric

from inception_zoo.architecture.card import Card
from inception_zoo.architecture.decision import Decision
from inception_zoo.data import ImageData
from inception_zoo.data.source import Batch
from inception_zoo.network.inception import Inception
from inception_zoo.training.losses import CrossEntropy, LogitLoss, class_weights
from inception_zoo.training.metrics import Evaluation, Scores, SeveralLabels, WeightedMean, keep_exact, soft_accuracy
from inception_zoo.training.operating_points import chooser
from inception_zoo.training.optimizers import parameter_groups
from inception_zoo.training.schedules import scheduled
from inception_zoo.weights.files import METADATA
from inception_zoo.weights.saving import card_of

METRICS, LOGGED = "train_metrics", "logged"  # keys in checkpoints
say = rank_zero_only(logging.getLogger(__name__).info)


class Classifier(L.LightningModule):
    """LightningModule that trains and tests any network of the zoo.

    The training loss is that of the logits, with label smoothing and class weights, plus the weighted loss of each auxiliary
    head. Validation and test loss are the cross entropy without them, the binary one with several labels for each image, so
    that recipes can be compared; the test loss is computed after the temperature. Training accuracy is measured on the
    augmented images; for mixed labels, see `soft_accuracy`. With several labels, it is not logged.

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
        loss: loss of the logits; None: the cross entropy.
        class_weight: of the loss, see `losses.class_weights`; None: all classes have the same weight.
        decision: options of `operating_points.chooser`; None: no temperature and no thresholds.
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
        loss: LogitLoss | None = None,
        class_weight: str | Sequence[float] | None = None,
        decision: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.optimizer, self.scheduler = optimizer, scheduler
        self.layer_decay, self.decay_norm_and_bias = layer_decay, decay_norm_and_bias
        self.criterion, self.class_weight, self.decision_options = loss or CrossEntropy(), class_weight, decision
        self.criterion.label_smoothing = label_smoothing
        self.aux_weights = {tap: head.weight if aux_weight is None else aux_weight for tap, head in model.plan.aux.items()}
        measured = ("loss",) if self.criterion.several else ("loss", "top1", "top5")
        self.train_metrics: Any = nn.ModuleDict({key: WeightedMean() for key in measured})
        self.val, self.test = self.evaluation(tables=False, more=metrics), self.evaluation(tables=True, more=metrics)
        self.test_name = "test"  # metric prefix of the test
        self._counted: list[dict[str, Any]] | None = None  # metric states of a resumed epoch
        self._logged = torch.zeros(2)  # sum of the losses of this epoch, and of their weights, when they were last logged
        self.recent_loss: float | None = None  # for the progress bar
        self.save_hyperparameters(dict(config))

    def evaluation(self, tables: bool, more: Mapping[str, Metric] | None) -> Any:
        """Return the metrics of one split; see `Evaluation`."""
        kind = SeveralLabels if self.criterion.several else Evaluation
        return kind(self.model.plan.num_classes, tables, more)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        images, labels, *weights = batch
        outputs = self.model.outputs(images)
        labels = self._padded(labels)
        every = {"logits": outputs.logits, **outputs.aux}
        losses = {name: self.criterion(logits, labels, *weights) for name, logits in every.items()}
        for tap in outputs.aux:
            self.log(f"train/aux_loss/{tap}", losses[tap], batch_size=len(labels))
        logits = outputs.logits.detach().float()
        figures = {"loss": losses["logits"].detach()}
        if not self.criterion.several:
            figures |= {f"top{k}": soft_accuracy(logits, labels, k) for k in (1, 5)}
        for key, figure in figures.items():
            self.train_metrics[key].update(figure, weight=len(labels))
        return losses["logits"] + sum(losses[tap] * self.aux_weights[tap] for tap in outputs.aux)

    def _padded(self, labels: Tensor) -> Tensor:
        """Add columns to mixed or several labels (N, classes of the data): the network may have more classes."""
        return F.pad(labels, (0, self.model.plan.num_classes - labels.shape[1])) if labels.dim() == 2 else labels

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
        if self.class_weight is not None:
            data: ImageData = self.trainer.datamodule  # type: ignore[attr-defined]
            weights = class_weights(self.class_weight, *data.counts())
            say("class weights: %s", ", ".join(f"{weight:.3g}" for weight in weights.tolist()))
            self.criterion.weight = F.pad(weights, (0, self.model.plan.num_classes - len(weights)), value=1.0).to(self.device)

    def on_test_start(self) -> None:
        keep_exact(self)

    def restart_means(self) -> None:
        """Start the training's means of this epoch again, for example after a NaN loss."""
        for metric in self.train_metrics.values():
            metric.reset()
        self._logged = torch.zeros(2)

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
        self._log_decisions("val", self.val, Decision(self.criterion.several))
        if self.val.scores is not None:
            self._choose(self.val.scores)
            self.val.scores.reset()

    def _choose(self, scores: Scores) -> None:
        """Choose the temperature and the thresholds, so that each checkpoint has those of its own weights."""
        if not self.decision_options or self.trainer.sanity_checking:
            return
        names = self.trainer.datamodule.class_names  # type: ignore[attr-defined]
        if choose := chooser(self.decision_options, names):
            _, probabilities, labels = scores.compute()
            self.model.decision = choose(probabilities, labels)
            self.log("val/temperature", self.model.decision.temperature)

    def validation_step(self, batch: Batch, index: int) -> None:
        self._evaluate(self.val, batch, self.trainer.val_dataloaders.batch_sampler.starts[index])  # type: ignore[union-attr]

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
        for kept in (self.test.tables, self.test.scores):
            if kept is not None:
                kept.reset()

    def on_test_epoch_end(self) -> None:
        self._log(self.test_name, self.test.metrics)
        self._log_decisions(self.test_name, self.test, self.model.decision)
        assert self.test.tables is not None
        self.test.tables.compute()  # cached by torchmetrics; ranks synchronize here, while the metrics are on their devices

    def _log_decisions(self, phase: str, evaluation: Evaluation, decision: Decision) -> None:
        for key, value in evaluation.figures(decision).items():
            self.log(f"{phase}/{key}", value)

    def _evaluate(self, evaluation: Evaluation, batch: Batch, first: int) -> None:
        images, labels = batch
        if images.dim() == 5:  # several views of each image
            each = self.model(images.flatten(0, 1).contiguous(memory_format=torch.channels_last))
            logits = each.view(*images.shape[:2], -1)
        else:
            logits = self.model(images)
        if evaluation is self.test:
            logits = logits.float() / self.model.decision.temperature
        evaluation.update(logits, self._padded(labels), images, first)

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
        if "decision" in (card := checkpoint.get(METADATA) or {}):
            self.model.decision = Card.of(card).decision

    def on_train_start(self) -> None:
        """Restore the metric states of an interrupted epoch."""
        self._keep_buffers()  # Lightning does not call `on_train_epoch_start` for a resumed epoch
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
