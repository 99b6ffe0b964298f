"""W&B's run and service of this process. None of it may end a training: what fails is a warning in one line."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING, Any

from inception_zoo.runs.results import reason_of

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)
STEP = "trainer/global_step"  # Lightning's, the x-axis of everything
EXIT_CODES = {"finished": 0, "pruned": 0, "failed": 1, "interrupted": 255}
PATIENCE = 60  # seconds at the end for what stays here; a run that is online has `finish_timeout` of its own, too


def log_content(run: "wandb.Run", step: int, **content: Any) -> None:
    run.log({**content, STEP: step})


def lose(error: Exception) -> None:
    """Let go of W&B's run and service, so that neither the end of this process nor the next job of a sweep waits for them."""
    import wandb
    from wandb.sdk.lib import module

    log.warning("W&B is lost, and the run goes on without it; its CSV has all metrics: %s", reason_of(error))
    with suppress(Exception):
        wandb.setup()._connection._proc._process.kill()  # type: ignore[union-attr]  # what hangs would be waited for
    with suppress(Exception, SystemExit):  # it would end this program with the status that the service was killed with
        wandb.teardown()
    module.unset_globals()


def close(state: str, reason: str | None = None) -> None:
    """End the current run as it ended: finished, pruned, failed or interrupted, and why; nothing if there is none."""
    run = current_run()
    if run is None:
        return
    with warned("how the run ended"):
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


def current_run() -> "wandb.Run | None":
    """The run of this process, which only rank 0 has."""
    return sys.modules["wandb"].run if "wandb" in sys.modules else None


@contextmanager
def warned(what: str) -> Iterator[None]:
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        lose(error)
    except Exception as error:
        log.warning("W&B did not get %s: %s", what, reason_of(error))
