"""The progress bar, which in a sweep says where the sweep is."""

import multiprocessing
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import TextColumn

from inception_zoo.sweeps import progress


class ProgressBar(RichProgressBar):
    """Lightning's, with the number of the job, the best so far and the time left; none where jobs run side by side."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.sweep = progress(Path(folder))
        if multiprocessing.current_process().name != "MainProcess":  # a worker of joblib's, one of several at the terminal
            self.disable()

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        columns = super().configure_columns(trainer)
        return [*columns, TextColumn(f"[dim]{self.sweep}")] if self.sweep else columns

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}
