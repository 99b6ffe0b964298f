"""Writing and reading checkpoint files: atomically, and without running anything that they say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from lightning.fabric.plugins import CheckpointIO

from inception_zoo.errors import ZooError
from inception_zoo.system.atomic_files import is_whole_zip, whole_file
from inception_zoo.weights.files import load_pickle


class AtomicCheckpointIO(CheckpointIO):
    """Writes checkpoints that are there whole or not at all, and reads them without running anything that they say.

    Lightning's own stages them in TMPDIR, and a cut while it moves one from there to another file system destroys both.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """ZooError if it cannot be written; the one before is still there then."""
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ZooError(f"{path} cannot be written: {error.strerror}") from error
        with whole_file(path) as temporary, temporary.open("wb") as file:
            written = _Written(file)
            try:
                torch.save(checkpoint, cast(BinaryIO, written))
            except RuntimeError:
                if written.error is None:
                    raise
            if written.error:
                raise written.error

    def load_checkpoint(
        self, path: Any, map_location: Callable | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load_pickle(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class _Written:
    """Remembers why a file could not be written: torch only says that it stands elsewhere than it should."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, its tensors still on the disk; ZooError if it is damaged, or would run code."""
    try:
        return load_pickle(path, mmap=True)
    except ZooError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ZooError(f"ckpt={path} is no readable checkpoint ({type(error).__name__})") from None


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is as it was written."""
    try:
        read_checkpoint(path)
    except ZooError:
        return False
    return is_whole_zip(path)
