"""The TensorBoard logger. A resumed run continues the same curves."""

from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from inception_zoo.errors import check_installed
from inception_zoo.runs.results import flattened

SHOWN = ("val/top1", "val/loss", "test/top1", "test/loss")  # metrics beside the config in the tab HPARAMS


class TensorBoardLogger(loggers.TensorBoardLogger):
    """Lightning's TensorBoardLogger in one folder, without a number of the version.

    Args:
        save_dir: folder of the logs.
        name: subfolder.
        **more: options of `torch.utils.tensorboard.SummaryWriter`.

    Raises:
        ZooError: the package is missing.
    """

    def __init__(self, save_dir: str, name: str, **more: Any) -> None:
        check_installed("tensorboard", "tensorboard", "logger=tensorboard")
        super().__init__(save_dir, name, version="", default_hp_metric=False, **more)

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Log the config and name its metrics. Lightning would log a placeholder as the value of a metric."""
        from torch.utils.tensorboard.summary import hparams

        super().log_hyperparams(params)
        known = {key: value if isinstance(value, int | float) else str(value) for key, value in flattened(params).items()}
        if writer := self.experiment.file_writer:  # None in the test after a training, which has logged the config
            for summary in hparams(known, dict.fromkeys(SHOWN, 0.0)):
                writer.add_summary(summary)

    @rank_zero_only
    def go_on(self, step: int) -> None:
        """Hide what was logged at `step` and later; a run that resumes at `step` logs it again."""
        if step:
            self.experiment.close()
            self._experiment, self._kwargs["purge_step"] = None, step
