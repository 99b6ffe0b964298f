"""One job: composed config → components → fit → test → results."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from inception_zoo.architecture.card import Card
from inception_zoo.architecture.cost import Cost, plan_cost
from inception_zoo.architecture.decision import Decision
from inception_zoo.data import ImageData
from inception_zoo.data.division import has_made_test
from inception_zoo.errors import ZooError
from inception_zoo.models import create_model
from inception_zoo.network.inception import Inception
from inception_zoo.redaction import redacted
from inception_zoo.runs.results import Pruned, begin, best_key, commit_of_the_code, read_results
from inception_zoo.runs.sweeps import progress
from inception_zoo.system.devices import auto_precision, check_batch, check_devices
from inception_zoo.system.ranks import agreed, is_first, local_rank, machines
from inception_zoo.system.records import save_redacted
from inception_zoo.system.threads import most_threads
from inception_zoo.tracking.wandb_tables import log_folder
from inception_zoo.training import components
from inception_zoo.training.callbacks import RunTime
from inception_zoo.training.checkpoints import card_of, check_classes, check_fits, divided_for, find_checkpoint, saved_config
from inception_zoo.training.embedding import Embedder
from inception_zoo.training.label_checks import check_labels
from inception_zoo.training.last_checkpoint import LastCheckpoint
from inception_zoo.training.machines import MINUTES, meeting
from inception_zoo.training.module import Classifier
from inception_zoo.training.operating_points import decision_for
from inception_zoo.training.same_job import SameConfig
from inception_zoo.training.summary import print_summary
from inception_zoo.training.surroundings import leaving_nothing_behind, quiet_libraries
from inception_zoo.training.tables import write_test
from inception_zoo.training.threads import Threads, chosen_threads
from inception_zoo.training.trainer_errors import check_limits, check_monitors, naming_the_key
from inception_zoo.weights.files import METADATA, load_pickle
from inception_zoo.weights.saving import save_model
from inception_zoo.weights.sources import is_hub, is_name

log = logging.getLogger(__name__)
say = rank_zero_only(log.info)


@dataclass
class Job:
    """Components of a job. All of them are built before an image is read."""

    config: dict[str, Any]  # final config as plain containers
    folder: Path  # run folder
    results: dict[str, Any]  # content of results.json
    ckpt: Path | None  # checkpoint to load; after `fit`: checkpoint to test
    model: Inception
    cost: Cost
    data: ImageData
    module: Classifier
    trainer: Trainer
    pruning: list[Any]  # callback of Optuna, if the job is one of its trials
    saved_classes: Sequence[str] | None  # class names of the weights that are resumed or tested, by label
    earlier: dict[str, Any]  # results.json of the run that is resumed


def run(cfg: DictConfig, results: dict[str, Any], interrupted: bool = False) -> None:
    """Train and then test the best checkpoint, or test only.

    Args:
        cfg: the composed and checked config.
        results: receives the facts and results of the run as they become known.
        interrupted: the run was started before, and interrupted.

    Raises:
        Pruned: the hyperparameter search stopped this job.
    """
    quiet_libraries()
    folder = Path(HydraConfig.get().runtime.output_dir)
    with leaving_nothing_behind():
        if position := progress(folder):
            say(position)
        adapts = cfg.trainer.get("threads") == "auto"
        cfg, ckpt = starting_point(cfg, folder, interrupted)
        job = build_job(cfg, folder, results, ckpt)
        if threads := cfg.trainer.get("threads"):
            most = most_threads(1) if adapts and job.trainer.world_size == 1 else None
            job.trainer.callbacks.append(Threads(threads, most))  # type: ignore[attr-defined]
        with meeting(job.trainer, folder, cfg.trainer.get("timeout_minutes", MINUTES)) as wait_for_all:
            read_data(job)
            begin(folder, results)
            wait_for_all()
            if cfg.task == "fit":
                fit(job)
            tables = test(job)
        if job.trainer.is_global_zero:
            write_outcome(job, tables)
    if job.trainer.is_global_zero:
        tested = job.ckpt or (job.config["model"].get("weights") if cfg.task == "test" else None)
        print_summary(job.model.plan, job.cost, results, folder, Path(tested) if tested else None)


def starting_point(cfg: DictConfig, folder: Path, interrupted: bool) -> tuple[DictConfig, Path | None]:
    """Select the source of weights and state, and make every value of the config final for all ranks.

    1. `ckpt` names a checkpoint or a run folder. task=fit resumes from its full state; task=test evaluates its best weights.
    2. ``ckpt=last``: the newest intact checkpoint of this run folder, else of the newest run under outputs/.
       An interrupted job of a sweep resumes in this way by default. Without a checkpoint it starts from the beginning.
    3. `model.weights`: weights only, from a file, from a run folder, or published ones by name. `model.adapt` lists the
       allowed differences.
    4. Otherwise: random initialization from `seed` and `model.init`.

    Args:
        cfg: the composed and checked config.
        folder: the run folder.
        interrupted: the run was started before, and interrupted.

    Returns:
        The final config, and the checkpoint in cases 1 and 2. `create_model` handles cases 3 and 4.

    Raises:
        ZooError: the checkpoint does not exist or is damaged, or the devices are not available.
    """
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    check_devices(config["trainer"])
    if cfg.trainer.num_nodes == "auto":
        if (started := machines()) is None:
            raise ZooError("trainer.num_nodes=auto: neither torchrun nor SLURM has started this job; give the number")
        config["trainer"]["num_nodes"] = started
        say(f"trainer.num_nodes: {started}")
    ckpt = find_checkpoint(cfg.ckpt, cfg.task, folder, interrupted)
    config["ckpt"] = str(ckpt) if ckpt else None
    if cfg.trainer.precision == "auto":
        if known := saved_config(ckpt).get("trainer", {}).get("precision") if ckpt else None:
            precision, why = str(known), "from the checkpoint"  # measuring the speed again could select another one
        else:
            precision, why = auto_precision(cfg.trainer.accelerator)
        config["trainer"]["precision"] = agreed("precision", precision)
        say(f"precision: {config['trainer']['precision']} ({why})")
    if cfg.trainer.get("threads") == "auto":
        known = saved_config(ckpt).get("trainer", {}).get("threads") if ckpt else None
        threads, why = (known, "from the checkpoint") if known else chosen_threads(config["trainer"])
        config["trainer"]["threads"] = threads
        say(f"threads: {threads or 'unchanged'} ({why})")
    components.leave_out_others(config)
    return OmegaConf.create(config), ckpt


def build_job(cfg: DictConfig, folder: Path, results: dict[str, Any], ckpt: Path | None) -> Job:
    """Build every component of the job, so that mistakes are reported before an image is read.

    Args:
        cfg: the final config.
        folder: the run folder.
        results: receives the facts of the run.
        ckpt: the checkpoint to load.

    Raises:
        ZooError: a component cannot be built, or the checkpoint does not match the job.
    """
    config: Any = OmegaConf.to_container(cfg)
    seed_everything(cfg.seed, workers=True, verbose=False)
    model = create_model(**config["model"] | ({"weights": None, "adapt": []} if ckpt else {}))  # `ckpt` has all weights
    cost = plan_cost(model.plan, cfg.data.image_size)
    results |= {"model": model.plan.net.name, "swapped": model.plan.swapped, "commit": commit_of_the_code()}
    results |= {"parameters": cost.params, "multiply_adds": cost.macs, "image_size": cfg.data.image_size}
    card = card_of(ckpt) if ckpt else None
    if card and (card.provenance or cfg.task == "test"):
        model.preprocessing, model.provenance = card.preprocessing, card.provenance
    if model.provenance or model.preprocessing:
        config["data"] |= of_the_weights(model, config["data"])
    if model.provenance:
        config["provenance"] = asdict(model.provenance)
    if ckpt:
        check_fits(ckpt, model, config)
        say(f"checkpoint: {ckpt}")
    data = components.build_data(config)
    data.folder, data.before = folder, ckpt.parent.parent if ckpt else divided_for(config)
    model.preprocessing = data.preprocessing
    optimizer = components.build_optimizer(cfg, config)
    choices = cfg.layer_decay, cfg.aux_weight, cfg.decay_norm_and_bias
    parts = model, *optimizer, cfg.label_smoothing, redacted(config), *choices
    if logit_loss := components.build_logit_loss(config["loss"]):
        metrics = components.build_metrics(config, model.plan.num_classes, logit_loss.several)
        module = Classifier(
            *parts, metrics=metrics, loss=logit_loss, class_weight=config["class_weight"], decision=config["decision"]
        )
        model.decision = decision_for(logit_loss.several, (card or model).decision if cfg.task == "test" else None)
    else:
        loss = components.build_loss(config["loss"], model.plan, cfg.data.num_classes) if cfg.task == "fit" else None
        module = Embedder(loss, *parts)
    pruning = components.pruner(cfg, folder)
    trainer = components.build_trainer(cfg, folder, [SameConfig(config, results), RunTime(results), *pruning], results)
    check_monitors(config)
    check_batch(cfg.data.batch_size, trainer.world_size, "batch" if model.plan.embedding else model.plan.choices.norm)
    saved_classes = card.classes if card else model.classes if cfg.task == "test" else None
    earlier = read_results(ckpt.absolute().parents[1]) if ckpt else {}
    return Job(config, folder, results, ckpt, model, cost, data, module, trainer, pruning, saved_classes, earlier)


def read_data(job: Job) -> None:
    """Read and check the data source, and write the final config to the run folder."""
    model, data, weights = job.model, job.data, job.config["model"].get("weights")
    if local_rank() == 0:  # the other ranks read the data later, after a possible download
        data.prepare_data()
        data.trainer = job.trainer
        job.results["images"] = {name: len(split) for name, split in data.splits.items() if data.trains or name == "test"}
        check_labels(job.config, job.data, job.module)
        check_limits(job.config, data)
        source = f"ckpt={job.ckpt}" if job.ckpt else f"model.weights={weights}"
        published = is_name(str(weights)) and not is_hub(str(weights))
        check_classes(source, job.saved_classes, data.classes, published=not job.ckpt and published)
        if job.config["task"] == "test" and not data.before and not published and has_made_test(job.folder):
            log.warning("data.split chose the test images; if %s was trained on this folder, it may know some of them", source)
        names = data.classes or []
        model.classes = names if len(names) == model.plan.num_classes else None
    if is_first() and (hydra_folder := job.folder / ".hydra").is_dir():
        save_redacted(job.config, hydra_folder / "resolved.yaml")
    data.check_batch(job.trainer.world_size)


def fit(job: Job) -> None:
    """Train, and set `job.ckpt` to the best checkpoint, or to None if there was no validation.

    Raises:
        Pruned: the hyperparameter search stopped this job.
    """
    trainer, results = job.trainer, job.results
    with naming_the_key(job.config):
        trainer.fit(job.module, job.data, ckpt_path=job.ckpt, weights_only=True)
    if trainer.is_global_zero:
        for report in job.folder.glob(f"fit-{components.PROFILE}*.txt"):
            sys.stdout.write(report.read_text())
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    for key, count in (("max_epochs", trainer.current_epoch), ("max_steps", trainer.global_step)):
        if job.ckpt and not metrics and count == getattr(trainer, key):
            done = f"{job.ckpt} has finished trainer.{key}={count} {key[4:]}"
            say(f"nothing left to train: {done}; set a larger trainer.{key} to continue")
    saved = next((each.metrics for each in trainer.callbacks if isinstance(each, LastCheckpoint)), {})  # type: ignore[attr-defined]
    if not metrics and not saved:  # an older version's checkpoint has no metrics
        saved = {key: value for key, value in job.earlier.items() if key.startswith(("train/", "val/"))}
    results |= saved | metrics
    best, job.ckpt = trainer.checkpoint_callback, None  # the first ModelCheckpoint
    if isinstance(best, ModelCheckpoint) and best.monitor:
        results |= {"monitor": best.monitor, "mode": best.mode}
        if best.best_model_score is not None:
            results[best_key(results)], job.ckpt = float(best.best_model_score), Path(best.best_model_path)
    for stopper in trainer.early_stopping_callbacks:
        if message := stopper.stopping_reason_message:
            why = message.removesuffix(" Signaling Trainer to stop.")
            results |= {"stopped_epoch": stopper.stopped_epoch, "stopped_reason": why}
            say(f"stopped early in epoch {stopper.stopped_epoch}: {why}")
    if reason := next((callback.reason for callback in job.pruning if callback.reason), None):
        raise Pruned(reason)


def test(job: Job) -> dict[str, Any] | None:
    """Test `job.ckpt`, or the current weights without one.

    If the checkpoint's weights are an average, the raw weights are tested, too, as `test_raw`. Lightning does not load the
    weights here: after a training, its EMAWeightAveraging would replace the average by the raw weights.

    Returns:
        The results of `Evaluation.tables`; None if there are no tables, or `trainer.limit_test_batches` is 0.
    """
    module = job.module
    job.results["tested"] = None
    if job.ckpt:
        folder, path = job.folder.resolve(), job.ckpt.resolve()
        job.results["tested"] = str(path.relative_to(folder) if path.is_relative_to(folder) else path)
        checkpoint = _weights_to_test(job.ckpt, job.trainer)
        if card := checkpoint.get(METADATA):
            job.model.decision = Card.of(card).decision  # of these weights, not of the last epoch's
        if raw := checkpoint.get("current_model_state"):
            load_network(module, raw)
            module.test_name = "test_raw"
            job.results |= _tested(job)
            module.test_name = "test"
        load_network(module, checkpoint["state_dict"])
    asked = {key: value for key, value in job.config["decision"].items() if value}
    if asked and job.model.decision == Decision(job.model.decision.several):
        log.warning("decision: %s was asked for, but the tested weights have none; it is chosen at each validation", asked)
    job.results |= _tested(job)
    if job.trainer.limit_test_batches == 0:
        say("trainer.limit_test_batches=0: no test")
        return None
    return module.test.tables.compute() if module.test.tables is not None else None


def _weights_to_test(path: Path, trainer: Trainer) -> dict[str, Any]:
    """Return the weights and the card of a checkpoint. After a training, rank 0 reads it: others may not have its disk."""
    trained = torch.distributed.is_available() and torch.distributed.is_initialized()
    content = {} if trained and not trainer.is_global_zero else load_pickle(path)
    wanted = {key: content[key] for key in ("state_dict", "current_model_state", METADATA) if key in content}
    return trainer.strategy.broadcast(wanted) if trained else wanted


def load_network(module: Classifier, state: Mapping[str, Any]) -> None:
    """Load the network of a checkpoint's state dict, without a loss that has weights of its own."""
    prefix = "model."
    module.model.load_state_dict({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})


def write_outcome(job: Job, tables: dict[str, Any] | None) -> None:
    """Write the tested weights, after a fit, and the tables and pictures of the test. Rank 0 calls it."""
    if job.config["task"] == "fit":
        save_model(job.model, job.folder / "model.safetensors")  # the weights that were tested
    if job.model.decision != Decision(job.model.decision.several):
        job.results["decision"] = job.model.decision.plain()
    written = write_test(job.folder, job.data, job.module.test, job.model.decision, tables) if tables is not None else ()
    log_folder(job.folder, job.results, job.trainer.global_step, written)


def _tested(job: Job) -> dict[str, Any]:
    """Run the test and return its metrics: none, if `trainer.limit_test_batches` is 0."""
    with naming_the_key(job.config):
        found = job.trainer.test(job.module, job.data, verbose=False)
    return dict(found[0]) if found else {}


def of_the_weights(model: Inception, data: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of `data` that loaded weights determine: normalization, interpolation and, if cropped, `crop_pct`.

    Args:
        model: the network with its weights.
        data: the config node `data`.
    """
    if model.preprocessing is None:
        say("the weights do not record the normalization of their images; using data.mean and data.std")
        return {}
    known = model.preprocessing
    keys: dict[str, Any] = {"mean": list(known.mean), "std": list(known.std), "interpolation": known.interpolation}
    # images that fill the frame, such as Fashion-MNIST, are not cropped
    if data["crop_pct"] < 1 and round(known.image_size / data["crop_pct"]) != known.resize:
        keys["crop_pct"] = round(known.image_size / known.resize, 4)
    if changed := [key for key, value in keys.items() if data.get(key) != value]:
        say(f"set to match the weights: {', '.join(f'data.{key}={keys[key]}' for key in changed)}")
    return keys
