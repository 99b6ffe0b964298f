"""The Hydra application of `run.py` and `inception-zoo run`. It runs one job or a sweep."""

import logging
import math
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import hydra
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from inception_zoo.config import CONF, hydra_patches
from inception_zoo.config.composed import check_composed, check_job, plain
from inception_zoo.config.explain import CAUGHT, TRACEBACK, check_flags, explain_all, one_line_errors, wants_traceback
from inception_zoo.config.targets import AGENT, allowing, own, refused_in_file, trust_words
from inception_zoo.config.unknown_keys import readable
from inception_zoo.errors import raise_all, say, shown
from inception_zoo.redaction import learn, redacted, safe
from inception_zoo.runs.folders import discard, quoted
from inception_zoo.runs.results import REASON, best_of, has_checkpoint, is_interrupted, recorded
from inception_zoo.runs.sweeps import finish, resumed
from inception_zoo.saved_config import not_saved, recover
from inception_zoo.system.huge_pages import use_huge_pages
from inception_zoo.system.ranks import is_first, process_name
from inception_zoo.system.records import save_redacted
from inception_zoo.system.renamed import with_new_names
from inception_zoo.system.terminal import asked, end_on_signals, guard_output, leave, tell

log = logging.getLogger(__name__)
# flags that a saved command may have
FLAGS = ("-m", "--multirun", "--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")
_taken: list[str] = []  # what was taken from a checkpoint, until the job's log is open


def main() -> None:
    """Run the command line.

    A mistake of the user is reported in one line, with exit status 2. The exit status is 1 if a job of a sweep failed, and
    128 + N after signal N, such as 130 after Ctrl-C.
    """
    end_on_signals()
    use_huge_pages()
    os.environ["PYTHONSAFEPATH"] = "1"  # for processes that start later: nothing is imported from the working folder by itself
    if CONF.parent == (root := Path(__file__).parents[1]):  # a checkout, which they would not find then
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))  # first, as here
    hydra_patches.install()
    hydra_patches.check_when_composed(partial(check_composed, recover=_recover))
    guard_output()
    os.environ[TRACEBACK] = os.environ.get("HYDRA_FULL_ERROR", "")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then passes on every error, and this module explains it
    status = 1
    try:
        with one_line_errors():
            program = ("python", "run.py") if Path(sys.argv[0]).name == "run.py" else ("inception-zoo", "run")
            trust_words(given := sys.argv[1:], *program)
            if (words := resumed(given)) != given or (AGENT in os.environ and REASON not in os.environ):  # nobody typed them
                skipped = ("-", "hydra.sweep.dir=") if words != given else "-"  # `resumed` has put the folder that was typed
                raise_all(_refused_flags(words) + refused_in_file([word for word in words if not word.startswith(skipped)]))
            sys.argv[1:] = words
            check_flags()
            sys.argv[1:] = readable(sys.argv[1:])
            if REASON in os.environ:  # from rank 0, without a file that would keep secrets
                ConfigStore.instance().store("job", OmegaConf.create(sys.stdin.read()))
            elif not is_first():  # the ranks share a folder; only rank 0 writes to it
                sys.argv += ["hydra.output_subdir=null", f"hydra.job.name={process_name()}"]
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(HydraJob())()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        discard()
        with one_line_errors():  # sweep.json does not make a name trusted
            ended = finish(lambda again: allowing(own(), again))
        if asked():  # without the traceback of a consequence, such as a lost connection to another rank
            leave(0)
    leave(status or ended)


def _refused_flags(words: Sequence[str]) -> list[str]:
    """Return an error message for each flag of a command that nobody typed, except the folder and name of its configs."""
    flags = [word for word in words if word.startswith("-") or ("=" not in word and "://" in word)]
    wrong = [word for word in flags if word.partition("=")[0] not in FLAGS or "://" in word]
    return [f"{shown(word)} must not come from a file; repeat the whole command" for word in wrong]


class HydraJob:
    """Function that Hydra calls with the config of each job.

    Launchers (joblib, submitit, Ray) send it to workers that did not run `main`. Unpickling it patches Hydra there.
    """

    def __call__(self, cfg: DictConfig) -> float:
        """Return the best value of the metric that selects the best checkpoint; NaN without one."""
        if asked():  # a library has caught the exit while the config was composed
            leave(0)
        node = HydraConfig.get()
        folder = Path(node.runtime.output_dir)
        single = node.mode == RunMode.RUN
        interrupted = is_interrupted(folder, single)
        if interrupted and not single and cfg.task == "fit" and (cfg.ckpt is None or has_checkpoint(folder)):  # in a sweep
            cfg.ckpt = "last"
        errors = one_line_errors() if single else _sweep_continues(folder)
        value = None
        with _advice_to_resume(folder, node), errors, recorded(folder, seed=cfg.seed) as results:
            if not single and cfg.ckpt:
                _recover(cfg, node, folder)
                results["seed"] = cfg.seed
                if (hydra_folder := folder / ".hydra").is_dir():
                    save_redacted(cfg, hydra_folder / "config.yaml")
            while is_first() and _taken:
                log.info(_taken.pop(0))
            config = with_new_names(plain(cfg))  # plain containers, exactly what is checked
            learn(config)
            check_job(config, node, cfg)
            from inception_zoo.training.job import run  # imports torch and Lightning, therefore only after the checks

            run(OmegaConf.create(config), results, interrupted)
            value = best_of(results)
        return math.nan if value is None else value

    def __reduce__(self) -> tuple[Callable[[], "HydraJob"], tuple[()]]:
        return _arrived, ()


def _arrived() -> HydraJob:
    guard_output()
    use_huge_pages()
    hydra_patches.install()
    return HydraJob()


def _recover(cfg: DictConfig, node: HydraConf, folder: Path) -> None:
    _taken.extend(recover(cfg, node, folder))


@contextmanager
def _advice_to_resume(folder: Path, node: HydraConf) -> Iterator[None]:
    """Print the command that resumes a single run after an interruption or an unexpected error."""
    try:
        yield
    except BaseException as end:
        mistake = isinstance(end, SystemExit) and end.code == 2
        if has_checkpoint(folder) and not mistake and is_first() and node.mode == RunMode.RUN:
            words = [*not_saved(node), "ckpt=last", f"hydra.run.dir={quoted(folder)}"]
            tell(f"resume with: {allowing(own(), shlex.join(['python', 'run.py', *redacted(words)]))}")
        raise


@contextmanager
def _sweep_continues(folder: Path) -> Iterator[None]:
    """Print the error of a failed job, and continue the sweep. The job itself has recorded the error."""
    try:
        yield
    except Exception as error:
        if isinstance(error, CAUGHT) and not wants_traceback():
            say([f"job {folder.name}: {message}" for message in explain_all(error)])
        else:
            sys.stderr.write(safe(traceback.format_exc()))


if __name__ == "__main__":
    main()
