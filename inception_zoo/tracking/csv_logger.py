"""The CSV logger. A resumed run continues the same file."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from inception_zoo.system.atomic_files import whole_file
from inception_zoo.system.csv_files import write_rows


class CSVLogger(loggers.CSVLogger):
    """Lightning's CSVLogger, but it appends to an existing file.

    Lightning's logger deletes the file or starts a second one.

    Args:
        save_dir: folder of the logs.
        name: subfolder.
        flush_logs_every_n_steps: interval between writes, in steps.
    """

    def __init__(self, save_dir: str, name: str, flush_logs_every_n_steps: int = 100) -> None:
        super().__init__(save_dir, name, version=0, flush_logs_every_n_steps=flush_logs_every_n_steps)

    @property
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir)
        return self._experiment

    @rank_zero_only
    def go_on(self, step: int) -> None:
        """Drop the rows of `step` and later steps; a run that resumes at `step` logs them again."""
        self.experiment.keep(lambda row: int(row["step"]) < step)


class _Writer(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Read the columns of an existing file, and do not delete it."""
        self.path = Path(self.metrics_file_path)
        if self.path.exists():
            with self.path.open(newline="") as file:
                self.metrics_keys = list(csv.DictReader(file).fieldnames or [])

    def keep(self, kept: Any) -> None:
        """Rewrite the file with the rows for which `kept(row)` is true; drop incomplete rows."""
        if not self.path.exists():
            return
        with self.path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if _is_whole(row) and kept(row)]
        with whole_file(self.path) as temporary, temporary.open("w", newline="") as file:
            write_rows(file, self.metrics_keys, ([row.get(key) for key in self.metrics_keys] for row in rows))

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self.keep(lambda row: True)


def _is_whole(row: dict[Any, Any]) -> bool:
    return None not in row and None not in row.values() and row["step"].isdecimal()
