"""W&B logger that cannot end a training, and the name, group and tags of a run in W&B."""

import os
from inspect import signature
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.types import RunMode
from lightning.pytorch import loggers
from lightning.pytorch.loggers.logger import rank_zero_experiment
from omegaconf import DictConfig

from inception_zoo.errors import ZooError, one_line
from inception_zoo.redaction import redacted
from inception_zoo.system.regular_files import text_of
from inception_zoo.tracking.service import NOWHERE, current_run, lose, unharmed

UNTAGGED = ("ckpt=", "data.root=", "hydra.", "logger", "sweep.")  # overrides that do not describe what is trained
OWN = {"id": "WANDB_RUN_ID", "tags": "WANDB_TAGS"}  # variables that W&B reads itself; the config reads the others
HARMLESS = ("mode", "disabled", "entity", "project")  # in `wandb/settings`
TAG = 64  # maximum length that W&B allows, in characters


def _check_settings() -> None:
    """Refuse settings in the working folder that W&B would obey, such as its server's address or a folder to write to.

    Raises:
        ZooError: The file has other keys than those that `wandb offline` and `wandb init` write.
    """
    for path in Path("wandb", "settings"), Path(".wandb", "settings"):
        if path.is_file() and any(
            line.split("=")[0].strip() not in HARMLESS for line in text_of(path).splitlines() if "=" in line
        ):
            raise ZooError(f"logger.wandb: delete {path.absolute()}, or start elsewhere; set W&B's variables instead")


class WandbLogger(loggers.WandbLogger):
    """Lightning's W&B logger. After an error of W&B it sends nothing more, and the training continues.

    Args:
        save_dir: folder of W&B's files.
        settings: `wandb.Settings`.
        **more: other arguments of Lightning's logger and of `wandb.init`; secrets are redacted.
    """

    def __init__(self, save_dir: str, settings: Any = None, **more: Any) -> None:
        os.environ.setdefault("WANDB_DISABLE_GIT", "true")  # git calls programs that the folder's repository names
        _check_settings()
        import wandb

        known = {**signature(loggers.WandbLogger).parameters, **signature(wandb.init).parameters}
        if unknown := [name for name in more if name not in known]:  # W&B reports it only after the data are read
            raise TypeError(f"unexpected keyword argument '{unknown[0]}'")
        super().__init__(save_dir=save_dir, settings=settings, **redacted(more))
        self._wandb_init.pop("anonymous", None)  # Lightning always sets it, and W&B warns about it

    lose = staticmethod(lose)

    @property
    def is_lost(self) -> bool:
        return self._experiment is not None and self._experiment is not current_run()

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run.

        Raises:
            ZooError: W&B refuses the settings.
        """
        import wandb

        if self.is_lost:
            return NOWHERE
        try:
            return super().experiment
        except wandb.errors.UsageError as error:
            raise ZooError(f"logger.wandb: {one_line(error)}") from None
        except Exception as error:
            lose(error)
            self._experiment = NOWHERE  # type: ignore[assignment]
            return NOWHERE

    log_metrics = unharmed(loggers.WandbLogger.log_metrics)
    log_hyperparams = unharmed(loggers.WandbLogger.log_hyperparams)
    after_save_checkpoint = unharmed(loggers.WandbLogger.after_save_checkpoint)
    finalize = unharmed(loggers.WandbLogger.finalize)


def identity(node: DictConfig, cfg: DictConfig, hydra: HydraConf) -> dict[str, Any]:
    """Return the W&B id, name, group, job type and tags of this run, without those that the config sets.

    Args:
        node: config node of a logger.
        cfg: the final config of the job.
        hydra: Hydra's config.

    Returns:
        Arguments for the logger; an empty dict if it is not a logger of W&B or MLflow.
    """
    in_sweep = hydra.mode == RunMode.MULTIRUN
    folder, name = Path(hydra.runtime.output_dir), cfg.run_name or cfg.model.name
    name = f"{name}-{folder.name}" if in_sweep else name
    if node._target_.endswith(".MLFlowLogger"):
        return {} if node.get("run_name") else {"run_name": name}
    if not node._target_.endswith(".WandbLogger"):
        return {}
    words = [redacted(word) for word in hydra.overrides.task if not word.startswith(UNTAGGED)]
    tags = list(dict.fromkeys(word if len(word) <= TAG else f"{word[: TAG - 1]}…" for word in words))
    group = _sweep_of(folder) if in_sweep else None
    known = {"id": _earlier(folder), "name": name, "group": group, "job_type": cfg.task, "tags": tags}
    if node.get("offline") is False and os.environ.get("WANDB_MODE") in ("offline", "dryrun"):
        known["mode"] = "online"  # as the config says
    return {key: value for key, value in known.items() if value and not node.get(key) and not os.environ.get(OWN.get(key, ""))}


def _earlier(folder: Path) -> str | None:
    """Return the id of the newest W&B run in a run folder, which a resumed run continues; None without one."""
    runs = sorted(folder.glob("wandb/*run-*-*"))
    return runs[-1].name.rpartition("-")[2] if runs else None


def _sweep_of(folder: Path) -> str:
    """Return the name of the sweep folder; for the default, `multirun/DATE/TIME`, both parts."""
    _, default, day_and_time = str(folder.parent).rpartition("multirun/")
    return day_and_time if default else folder.parent.name
