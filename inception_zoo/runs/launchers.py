"""Launcher that runs the jobs of a sweep as Ray tasks. `hydra_plugins` registers it with Hydra."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from inception_zoo.errors import ZooError, check_installed, one_line

# After 70 s without an answer Ray asks a machine whether it is alive, and waits for its answer for 20 s; by default, 5 and 2
# minutes. Ray's servers would end a connection that asks more often than once a minute.
KEEPALIVE = {"RAY_grpc_client_keepalive_time_ms": "70000", "RAY_grpc_client_keepalive_timeout_ms": "20000"}
log = logging.getLogger(__name__)


class RayLauncher(Launcher):
    """Launcher that runs each job of a sweep as a Ray task.

    The tasks run on this machine, or on a cluster whose machines share the current folder. hydra-ray-launcher 1.2.2 is not
    used: it requires cloudpickle < 3, and cannot connect to a running Ray cluster.

    Args:
        init: options of `ray.init`.
        task: options of `ray.remote`, the resources of each job; `num_cpus` is its number of threads, too. The value in
            the job's own config counts.
    """

    def __init__(self, init: DictConfig, task: DictConfig) -> None:
        self.init: Any = OmegaConf.to_container(init, resolve=True)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        check_installed("ray", "cluster", "hydra/launcher=ray")
        self.context, self.function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        os.environ.update(KEEPALIVE | os.environ)  # read when ray is imported
        import ray

        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        if not ray.is_initialized():  # a search launches several times; Ray stops when this process ends
            self._start()
        job = ray.remote(_run)
        # the workers of a running cluster have another environment
        variables = {name: value for name, value in os.environ.items() if name.startswith("INCEPTION_ZOO_")}
        common = ray.put((self.context, self.function, self.config, Singleton.get_state(), Path.cwd(), variables))
        started = []
        for number, words in enumerate(job_overrides, start=initial_job_idx):
            log.info(f"\t#{number} : {' '.join(filter_overrides(words))}")
            own = self.context.config_loader.load_sweep_config(self.config, list(words))
            takes: Any = OmegaConf.to_container(own.hydra.launcher.task, resolve=True)
            started.append(job.options(**takes).remote(common, number, list(words)))
        return [_result(reference) for reference in started]

    def _start(self) -> None:
        import ray

        try:
            ray.init(**self.init)
        except (ConnectionError, ValueError, RuntimeError, TypeError) as error:  # caused by the user's options
            given = ", ".join(f"{key}={value}" for key, value in self.init.items() if value is not None)
            raise ZooError(f"hydra.launcher.init ({given}): {one_line(error)}") from error


def _result(reference: Any) -> JobReturn:
    """Return the result of a job. If its worker was lost, Hydra raises the error after all jobs have ended."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return JobReturn(status=JobStatus.FAILED, _return_value=error)


def _run(common: tuple[HydraContext, TaskFunction, DictConfig, dict, Path, dict], number: int, words: list[str]) -> JobReturn:
    """Run one job in a Ray worker, which may have started in another folder than the sweep."""
    context, function, config, state, folder, variables = common
    os.chdir(folder)
    os.environ |= variables
    Singleton.set_state(state)
    setup_globals()
    config = context.config_loader.load_sweep_config(config, words)
    with open_dict(config):
        config.hydra.job.id, config.hydra.job.num = f"{config.hydra.job.name}_{number}", number
    HydraConfig.instance().set_config(config)
    return run_job(function, config, job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir", hydra_context=context)
