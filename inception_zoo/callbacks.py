"""Callbacks that Lightning does not have."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging


class EMA(EMAWeightAveraging):
    """Lightning's, whose average stays on the CPU if it is made there, before the network moves to its device."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._average_model is not None
        self._average_model.to(pl_module.device)


class ImagesPerSecond(Callback):
    """Logs `train/images_per_second` of each epoch, over all processes, validation not counted.

    Lightning's ThroughputMonitor synchronizes the device at every step, which costs what it measures.
    """

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start, self.images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch[1]) * trainer.world_size
        if trainer.is_last_batch:  # before the validation that ends the epoch
            rate = self.images / (time.perf_counter() - self.start)
            pl_module.log("train/images_per_second", rate, on_step=False, on_epoch=True)
