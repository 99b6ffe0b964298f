"""W&B's run and background service in this process. An error of W&B never ends a training; it becomes a one-line warning."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from threading import Thread
from typing import TYPE_CHECKING, Any

from inception_zoo.runs.results import reason_of

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)
STEP = "trainer/global_step"  # Lightning's step counter, the x-axis of all charts
EXIT_CODES = {"finished": 0, "pruned": 0, "failed": 1, "interrupted": 255}
PATIENCE = 60  # seconds to finish local files at the end of a run; an online run has W&B's `finish_timeout` in addition


class Nowhere:
    """Null object for the run of a logger that failed: it accepts every attribute and call."""

    def __getattr__(self, name: str) -> "Nowhere":
        return self

    def __call__(self, *args: Any, **more: Any) -> "Nowhere":
        return self


NOWHERE = Nowhere()


def log_content(run: "wandb.Run", step: int, **content: Any) -> None:
    """Log content to a W&B run.

    Args:
        run: the run.
        step: optimizer step.
        **content: values by key.
    """
    run.log({**content, STEP: step})


def lose(error: Exception) -> None:
    """Warn, and drop W&B's run and service, so that neither this process nor the next job of a sweep waits for them.

    Args:
        error: the error of W&B.
    """
    import wandb
    from wandb.sdk.lib import module

    log.warning("W&B logging failed; the run continues without it, and its CSV file has all metrics: %s", reason_of(error))
    with suppress(Exception):
        wandb.setup()._connection._proc._process.kill()  # type: ignore[union-attr]  # a hanging service blocks the exit
    with suppress(Exception, SystemExit):  # it would exit with the status of the killed service
        wandb.teardown()
    module.unset_globals()


def unharmed(method: Callable[..., None]) -> Callable[..., None]:
    """Wrap a method of a logger with `is_lost` and `lose`, so that an error ends its logging and not the training."""

    @wraps(method)
    def tried(self: Any, *args: Any, **more: Any) -> None:
        if self.is_lost:
            return
        try:
            method(self, *args, **more)
        except Exception as error:
            self.lose(error)

    return tried


def close(state: str, reason: str | None = None) -> None:
    """Finish the current W&B run, if there is one, with the state and reason of the training run.

    Args:
        state: `finished`, `pruned`, `failed` or `interrupted`.
        reason: why the run failed or was pruned.
    """
    run = current_run()
    if run is None:
        return
    with warned("the final state of the run"):
        run.summary.update({"state": state, "reason": reason})
        limit = PATIENCE + (0 if run.offline else run.settings.finish_timeout)
        _within(limit, lambda: run.finish(exit_code=EXIT_CODES[state]))


def _within(seconds: float, call: Callable[[], None]) -> None:
    """Run `call` and raise its error. After the time limit raise TimeoutError; `call` then continues in its thread."""
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
    """Return the W&B run of this process; None on ranks other than 0 and without W&B."""
    return sys.modules["wandb"].run if "wandb" in sys.modules else None


@contextmanager
def warned(what: str) -> Iterator[None]:
    """Turn an error of W&B within the block into a warning. A lost connection ends W&B for this run.

    Args:
        what: the content that is logged, for the warning.
    """
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        lose(error)
    except Exception as error:
        log.warning("W&B could not log %s: %s", what, reason_of(error))
