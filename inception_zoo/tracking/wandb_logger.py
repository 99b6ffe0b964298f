"""What a run tells Weights & Biases beside its metrics: what it is, what it saw, what its folder holds, and how it ended.

None of this may end a training: what cannot be logged is a warning in one line, and so is the end of W&B itself.
"""

import csv
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import wraps
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from hydra.conf import HydraConf
from hydra.types import RunMode
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch import loggers
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig
from PIL import Image
from torchvision.utils import make_grid

from inception_zoo.data.pixels import as_pictures
from inception_zoo.describe.drawing import network_figure
from inception_zoo.errors import ZooError, one_line
from inception_zoo.redaction import redacted
from inception_zoo.runs.results import reason_of

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)
STEP = "trainer/global_step"  # Lightning's, the x-axis of everything
BEST = {"val/top1": "max", "val/loss": "min"}  # what a run's summary keeps of them
EXIT_CODES = {"finished": 0, "pruned": 0, "failed": 1, "interrupted": 255}
UNTAGGED = ("ckpt=", "data.root=", "hydra.", "logger", "sweep.")  # words that say nothing of what was trained
TAG = 64  # characters that W&B allows
CELLS = 10_000  # rows that W&B draws
SAMPLES = 32
PATIENCE = 60  # seconds at the end for what stays here; a run that is online has `finish_timeout` of its own, too


class Nowhere:
    """In place of a W&B run that was lost: takes everything."""

    def __getattr__(self, name: str) -> "Nowhere":
        return self

    def __call__(self, *args: Any, **more: Any) -> "Nowhere":
        return self


NOWHERE = Nowhere()


def _going_on(method: Callable[..., None]) -> Callable[..., None]:
    """A method of the logger, whose errors end W&B and not the training."""

    @wraps(method)
    def tried(self: "WandbLogger", *args: Any, **more: Any) -> None:
        if self.is_lost:
            return
        try:
            method(self, *args, **more)
        except Exception as error:
            _lose(error)

    return tried


class WandbLogger(loggers.WandbLogger):
    """Lightning's, without which a training goes on: after an error of W&B's nothing more is sent to it.

    Args:
        **more: Lightning's own, without their secrets.
    """

    def __init__(self, save_dir: str, settings: Any = None, **more: Any) -> None:
        super().__init__(save_dir=save_dir, settings=settings, **redacted(more))
        self._wandb_init.pop("anonymous", None)  # Lightning gives it always, and W&B warns of it

    @property
    def is_lost(self) -> bool:
        return self._experiment is not None and self._experiment is not _current()

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run; ZooError if W&B does not take its settings."""
        import wandb

        if self.is_lost:
            return NOWHERE
        try:
            return super().experiment
        except wandb.errors.UsageError as error:
            raise ZooError(f"logger.wandb: {one_line(error)}") from None
        except Exception as error:
            _lose(error)
            self._experiment = NOWHERE  # type: ignore[assignment]
            return NOWHERE

    log_metrics = _going_on(loggers.WandbLogger.log_metrics)
    log_hyperparams = _going_on(loggers.WandbLogger.log_hyperparams)
    after_save_checkpoint = _going_on(loggers.WandbLogger.after_save_checkpoint)
    finalize = _going_on(loggers.WandbLogger.finalize)


def _lose(error: Exception) -> None:
    """Let go of W&B's run and service, so that neither the end of this process nor the next job of a sweep waits for them."""
    import wandb
    from wandb.sdk.lib import module

    log.warning("W&B is lost, and the run goes on without it; its CSV has all metrics: %s", reason_of(error))
    with suppress(Exception):
        wandb.setup()._connection._proc._process.kill()  # type: ignore[union-attr]  # what hangs would be waited for
    with suppress(Exception, SystemExit):  # it would end this program with the status that the service was killed with
        wandb.teardown()
    module.unset_globals()


def identity(node: DictConfig, cfg: DictConfig, hydra: HydraConf) -> dict[str, Any]:
    """What W&B files this run under, as far as `node`, a logger of the config, leaves it open; nothing for other loggers."""
    if not node._target_.endswith(".WandbLogger"):
        return {}
    in_sweep = hydra.mode == RunMode.MULTIRUN
    folder, model = Path(hydra.runtime.output_dir), cfg.model.name
    words = [redacted(word) for word in hydra.overrides.task if not word.startswith(UNTAGGED)]
    known = {
        "id": _earlier(folder),
        "name": f"{model}-{folder.name}" if in_sweep else model,
        "group": _sweep_of(folder) if in_sweep else None,
        "job_type": cfg.task,
        "tags": list(dict.fromkeys(word if len(word) <= TAG else f"{word[: TAG - 1]}…" for word in words)),
    }
    return {key: value for key, value in known.items() if value and not node.get(key)}


def _earlier(folder: Path) -> str | None:
    """The run that a run folder has already: what goes on in the folder goes on in the run."""
    runs = sorted(folder.glob("wandb/*run-*-*"))
    return runs[-1].name.rpartition("-")[2] if runs else None


def _sweep_of(folder: Path) -> str:
    """The name of the folder around a job's; with the day where that is a time of day."""
    _, default, day_and_time = str(folder.parent).rpartition("multirun/")
    return day_and_time if default else folder.parent.name


class Tracking(Callback):
    """Logs what is no metric: what the run is, its network's picture, and its first images as training sees them.

    Args:
        facts: what stands in results.json, as far as it is known.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts, self.begun, self.seen = facts, False, False

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    @rank_zero_only
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    def _begin(self, trainer: Trainer, pl_module: Any) -> None:
        if self.begun:
            return
        self.begun = True
        with _warned("what the run is"):
            run, plan = _run_of(trainer), pl_module.model.plan
            for metric, summary in BEST.items():
                run.define_metric(metric, step_metric=STEP, summary=summary)
            run.summary.update(dict(self.facts))
            with _warned("the network's picture"):
                _log(run, trainer.global_step, network=_network(plan, self.facts["image_size"]))

    @rank_zero_only
    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if not self.seen:
            self.seen = True
            with _warned("the first images"):
                images, labels = (part[:SAMPLES] for part in batch)
                _log(_run_of(trainer), trainer.global_step, **{"train/images": _sheet(pl_module.model, images, labels)})


def _run_of(trainer: Trainer) -> "wandb.Run":
    return next(logger.experiment for logger in trainer.loggers if isinstance(logger, loggers.WandbLogger))


def _log(run: "wandb.Run", step: int, **content: Any) -> None:
    run.log({**content, STEP: step})


def _network(plan: Any, image_size: int) -> "wandb.Image":
    import wandb

    file = BytesIO()
    network_figure(plan, image_size).savefig(file, format="png", dpi=96)
    return wandb.Image(Image.open(file))


def _sheet(model: Any, images: Any, labels: Any) -> "wandb.Image":
    """Images (N, C, H, W) of a batch, with their labels below; of mixed ones the label with the largest share."""
    import wandb

    pixels = as_pictures(images, model.preprocessing)
    planes = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    grid = make_grid(planes, nrow=8, pad_value=255).permute(1, 2, 0)
    labels = labels if labels.dim() == 1 else labels.argmax(1)
    names = [model.classes[label] if model.classes else str(label) for label in labels.tolist()]
    kind = "png" if images.shape[-1] <= 96 else "jpg"
    return wandb.Image(Image.fromarray(grid.numpy()), caption=", ".join(names), file_type=kind)


def log_folder(folder: Path, results: Mapping[str, Any], step: int) -> None:
    """Log the tables and pictures of a test that a run folder holds to the current run; nothing if there is none.

    Args:
        folder: of the run.
        results: what stands in results.json.
        step: of the optimizer.
    """
    run = _current()
    if run is None:
        return
    os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb"))  # where tables wait to be sent; W&B's own is in the home
    content = {}
    for key, (name, make) in TABLES.items():
        with _warned(name), (folder / name).open(newline="") as file:
            content[key] = make(*csv.reader(file), folder=folder)
    with _warned("the tables of the test"):
        _log(run, step, **content)
        run.summary.update({key: value for key, value in results.items() if "/" not in key or key == "val/top1_best"})


def _per_class(header: Any, *rows: list[str], folder: Path) -> "wandb.Table":
    import wandb

    return wandb.Table(header, [[name, *map(_number, figures)] for name, *figures in rows])


def _confusion(header: Any, *rows: list[str], folder: Path) -> Any:
    import wandb

    columns: Any = ["Actual", "Predicted", "nPredictions"]
    cells = [(name, other, int(n)) for name, *row in rows for other, n in zip(header[1:], row, strict=True)]
    cells.sort(key=lambda cell: cell[2], reverse=True)
    table = wandb.Table(columns, cells[:CELLS])
    return wandb.plot_table(
        "wandb/confusion_matrix/v1", table, dict(zip(columns, columns, strict=True)), {"title": "confusion"}
    )


def _calibration(header: Any, *rows: list[str], folder: Path) -> Any:
    import wandb

    shares = [(float(confidence), float(accuracy)) for *_, accuracy, confidence in rows if accuracy]
    confidence, accuracy = zip(*shares, strict=True)
    series = [accuracy, confidence]
    return wandb.plot.line_series(confidence, series, ["accuracy", "calibrated"], "calibration", "confidence")


def _worst(header: Any, *rows: list[str], folder: Path) -> "wandb.Table":
    import wandb

    pictures = (wandb.Image(str(folder / picture)) for picture, *_ in rows)
    data = [[shown, *row[1:3], *map(_number, row[3:])] for shown, row in zip(pictures, rows, strict=True)]
    return wandb.Table(header, data)


TABLES = {
    "test/per_class": ("per_class.csv", _per_class),
    "test/confusion": ("confusion.csv", _confusion),
    "test/calibration": ("calibration.csv", _calibration),
    "test/worst": ("worst.csv", _worst),
}


def _number(text: str) -> float | None:
    return float(text) if text else None


def close(state: str, reason: str | None = None) -> None:
    """End the current run as it ended: finished, pruned, failed or interrupted, and why; nothing if there is none."""
    run = _current()
    if run is None:
        return
    with _warned("how the run ended"):
        run.summary.update({"state": state, "reason": reason})
        limit = PATIENCE + (0 if run.offline else run.settings.finish_timeout)
        _within(limit, lambda: run.finish(exit_code=EXIT_CODES[state]))


def _within(seconds: float, call: Callable[[], None]) -> None:
    """TimeoutError if `call` takes longer, which then goes on behind our back; else its own error."""
    errors: list[Exception] = []

    def work() -> None:
        try:
            call()
        except Exception as error:
            errors.append(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer for {seconds:g} seconds")
    if errors:
        raise errors[0]


def _current() -> "wandb.Run | None":
    """The run of this process, which only rank 0 has."""
    return sys.modules["wandb"].run if "wandb" in sys.modules else None


@contextmanager
def _warned(what: str) -> Iterator[None]:
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        _lose(error)
    except Exception as error:
        log.warning("W&B did not get %s: %s", what, reason_of(error))
