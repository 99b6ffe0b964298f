"""Set up a job's process and clean it up: quiet libraries, restored environment."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from inception_zoo.redaction import redacted
from inception_zoo.runs.results import Pruned, ending
from inception_zoo.system.ranks import meet_anew
from inception_zoo.tracking.service import close
from inception_zoo.training.processes import end_ranks


def quiet_libraries() -> None:
    """Silence duplicate messages, tips, and warnings without consequence."""
    logging.getLogger("lightning").handlers.clear()  # Hydra's handlers print the same messages
    for name in ("lightning.pytorch", "lightning.fabric"):  # hides tips and notes on progress
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # data/pictures.py raises a ZooError for it
    warnings.filterwarnings("ignore", ".*not supported by the model summary")  # our summary prints fp32's size and says so
    warnings.filterwarnings("ignore", "Found .* module.* in eval mode")  # the frozen ones
    warnings.filterwarnings("ignore", ".*LeafSpec")  # caused by Lightning
    warnings.filterwarnings("ignore", ".*sync_dist=True")  # all ranks have computed these metrics from all images
    warnings.filterwarnings("ignore", ".*smaller than the logging interval")
    warnings.filterwarnings("ignore", "The `srun` command is available")  # a login node: `hydra/launcher=slurm` calls srun
    warnings.filterwarnings("ignore", ".*exists and is not empty")  # a run is resumed in its folder
    warnings.filterwarnings("ignore", ".*your dataloader is not resumable")  # its order is: data/datamodule.py


@contextmanager
def leaving_nothing_behind() -> Iterator[None]:
    """Close the job's W&B run and process group and restore the environment, so that the next job of a sweep starts clean."""
    environment, words, threads = dict(os.environ), sys.argv[1:], torch.get_num_threads()
    end: BaseException | None = None
    sys.argv[1:] = redacted(words)  # W&B stores the command line
    meet_anew()
    try:
        yield
    except BaseException as error:
        end = error
    finally:
        pruned = end if isinstance(end, Pruned) else None
        end = end_ranks(None if pruned else end) or pruned
        close(*ending(end))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        sys.argv[1:] = words
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ.update(environment)
    if end:
        raise end
