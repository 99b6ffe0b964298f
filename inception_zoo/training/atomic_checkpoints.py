"""Atomic writing and safe reading of checkpoint files. Reading runs no code that a file contains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from lightning.fabric.plugins import CheckpointIO

from inception_zoo.errors import ZooError
from inception_zoo.system.atomic_files import is_whole_zip, whole_file
from inception_zoo.weights.files import load_pickle
from inception_zoo.weights.kinds import KERAS, refused_object


class AtomicCheckpointIO(CheckpointIO):
    """Lightning plugin that writes checkpoints atomically and reads them without running code.

    Lightning's own plugin writes to TMPDIR first. An interruption while it moves the file to another file system destroys
    the old and the new checkpoint.

    Args:
        run_folder: it must exist; folders below it are created.
    """

    def __init__(self, run_folder: Path = Path()) -> None:
        self.run_folder = run_folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; the existing file stays intact until the new one is complete.

        Args:
            checkpoint: what to save.
            path: of the file.
            storage_options: ignored.

        Raises:
            ZooError: the file cannot be written.
        """
        path = Path(path)
        if not self.run_folder.is_dir():
            raise ZooError(f"{path} cannot be written: the run folder was deleted")
        with whole_file(path, parents=True) as temporary, temporary.open("wb") as file:
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
    """File that remembers its first write error; torch reports only an unexpected file position."""

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
    """Read a checkpoint; its tensors are memory-mapped.

    Raises:
        ZooError: the file is damaged, loading it would run code, or it holds weights only.
    """
    try:
        content = {} if path.suffix in (".safetensors", *KERAS) else load_pickle(path, mmap=True)
    except ZooError as error:
        raise ZooError(f"ckpt={error}") from None
    except Exception as error:  # torch raises errors of many types for damaged files
        raise ZooError(
            f"ckpt={path} {refused_object(error) or f'is not a readable checkpoint ({type(error).__name__})'}"
        ) from None
    recorded = content.get("hyper_parameters") if isinstance(content, dict) else None
    groups = ("model", "data", "trainer")
    if not isinstance(recorded, dict) or not all(isinstance(recorded.get(group), dict) for group in groups):
        raise ZooError(f"ckpt={path} is not the checkpoint of a run; if it has weights, start from them: model.weights={path}")
    return content


def is_whole(path: Path) -> bool:
    """Return whether a checkpoint file is intact."""
    try:
        read_checkpoint(path)
    except ZooError:
        return False
    return is_whole_zip(path)
