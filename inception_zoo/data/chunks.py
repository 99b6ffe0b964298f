"""Reader of LitData's chunks that reports a damaged chunk by its path. It imports LitData, which takes seconds."""

import struct
from pathlib import Path
from typing import Any

from litdata.streaming import item_loader

from inception_zoo.data.stream import check_chunk
from inception_zoo.errors import ZooError


class PyTreeLoader(item_loader.PyTreeLoader):  # index.json has the name of this class
    """LitData's reader, with a check of each chunk before its first item, and errors of one line."""

    def __init__(self) -> None:
        super().__init__()
        self.checked: set[str] = set()

    def load_item_from_chunk(
        self, index: int, chunk_index: int, chunk_filepath: str, begin: int, filesize_bytes: int, encryption: Any = None
    ) -> Any:
        if chunk_filepath not in self.checked:
            self._wait_until_chunk_ready(chunk_index, chunk_filepath, filesize_bytes)
            check_chunk(Path(chunk_filepath), self._chunks[chunk_index]["chunk_size"], filesize_bytes)
            self.checked.add(chunk_filepath)
        try:
            return super().load_item_from_chunk(index, chunk_index, chunk_filepath, begin, filesize_bytes, encryption)
        except (ValueError, IndexError, struct.error) as error:
            kind = type(error).__name__
            raise ZooError(f"{chunk_filepath}: image {index} is damaged ({kind}); copy the chunk again") from None
