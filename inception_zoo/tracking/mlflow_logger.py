"""The MLflow logger. An error of MLflow never ends a training, and a resumed run continues its run of MLflow."""

import logging
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from inception_zoo.errors import check_installed
from inception_zoo.runs.results import flattened, reason_of
from inception_zoo.system.atomic_files import write_whole
from inception_zoo.tracking.service import NOWHERE, unharmed

log = logging.getLogger(__name__)


class MLFlowLogger(loggers.MLFlowLogger):
    """Lightning's MLFlowLogger, whose database is in the run folder by default.

    Args:
        save_dir: the run folder. Its folder `mlflow` has the id of the run, from which a resumed run continues it.
        tracking_uri: address of a server or a database; None: ``mlflow/mlflow.db`` in `save_dir`.
        **more: other arguments of Lightning's logger.

    Raises:
        ZooError: the package is missing.
    """

    def __init__(self, save_dir: str, tracking_uri: str | None = None, **more: Any) -> None:
        check_installed("mlflow", "mlflow", "logger=mlflow")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing leaves the machine unless the user asks for it
        folder = Path(save_dir, "mlflow").absolute()
        if not tracking_uri:
            tracking_uri = f"sqlite:///{folder}/mlflow.db"
            more.setdefault("artifact_location", f"{folder}/artifacts")
        self.note, self.is_lost = folder / "run_id", False
        known = self.note.read_text(errors="replace").strip() if self.note.is_file() else None
        super().__init__(tracking_uri=tracking_uri, run_id=known or None, **more)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self.is_lost:
            return NOWHERE
        try:
            if not self._initialized:
                self.note.parent.mkdir(parents=True, exist_ok=True)
                client = super().experiment
                write_whole(self.note, str(self._run_id))
                client.update_run(self._run_id, status="RUNNING")  # an interrupted run is marked as failed
        except Exception as error:  # Lightning asks for it before the training: the server may not answer
            self.lose(error)
        return NOWHERE if self.is_lost else self._mlflow_client

    def lose(self, error: Exception) -> None:
        """Warn, and log nothing more."""
        log.warning("MLflow logging failed; the run continues without it: %s", reason_of(error))
        self.is_lost = True

    @unharmed
    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Log the config. Of a resumed run, the values of its first part stay: MLflow refuses another value."""
        known = self.experiment.get_run(self.run_id).data.params if self.run_id else {}
        super().log_hyperparams({key: value for key, value in flattened(params).items() if key not in known})

    log_metrics = unharmed(loggers.MLFlowLogger.log_metrics)
    after_save_checkpoint = unharmed(loggers.MLFlowLogger.after_save_checkpoint)
    finalize = unharmed(loggers.MLFlowLogger.finalize)
