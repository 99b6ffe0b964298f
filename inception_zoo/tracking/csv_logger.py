"""The CSV logger. A resumed run continues the same file."""

from pathlib import Path
from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from inception_zoo.errors import ZooError
from inception_zoo.system.csv_files import read_table, write_table
from inception_zoo.system.records import save_redacted


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
        self.metrics_keys = _read(self.path)[0]

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Write hparams.yaml atomically."""
        self.hparams.update(params)
        save_redacted(self.hparams, Path(self.log_dir, self.NAME_HPARAMS_FILE))

    def keep(self, kept: Any) -> None:
        """Rewrite the file with the rows for which `kept(row)` is true; drop incomplete rows."""
        if self.path.exists():
            rows = ([row.get(key, "") for key in self.metrics_keys] for row in _read(self.path)[1] if kept(row))
            write_table(self.path, self.metrics_keys, rows)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self.keep(lambda row: True)


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and the complete rows of metrics.csv. A killed run may have left a part of a row.

    Raises:
        ZooError: the file is damaged.
    """
    if not path.exists():
        return [], []
    try:
        header, *rows = list(read_table(path, grows=True)) or [[]]
        if header and "step" not in header:
            raise ZooError(f"{path} is damaged: it has no column 'step'")
    except ZooError as error:
        raise ZooError(f"{error}; move it away to continue without the earlier metrics") from None
    named = (dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header))
    return header, [row for row in named if row["step"].isdecimal()]
