"""Local copies of image files that are in an archive (zip, tar) or in an object store.

Object stores: https://developmentseed.org/obstore.
"""

import logging
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock
from rich.progress import track

from inception_zoo.data.inspection import MANY, cached
from inception_zoo.errors import ZooError, check_installed, one_line, printable, shown
from inception_zoo.system.ranks import is_first
from inception_zoo.system.terminal import console

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
STORES = ("s3://", "gs://", "az://")
AT_ONCE = 16  # downloads at the same time
CLIENT: Any = {"connect_timeout": "10s"}
RETRY: Any = {"max_retries": 3}

log = logging.getLogger(__name__)
Found = Iterator[tuple[str, bytes | None]]  # path, and content of the file; None: there is no such file


def local_folder(images: str, paths: Sequence[str]) -> Path:
    """Return the folder that has these images, or copies of them.

    The copies are in the user's cache folder, one folder for each address, and for each size and time of an archive. Only
    files that are not there are copied, so that an interrupted copy can be continued. A file that does not exist is left out.

    Args:
        images: a folder, an archive with one of the suffixes `ARCHIVES`, or an address that begins with one of `STORES`.
        paths: of the images in it.

    Raises:
        ZooError: the archive or the store cannot be read, or the disk is full.
    """
    key = f"data.source.images={shown(images)}"
    is_store = images.startswith(STORES)
    if not is_store and "://" in images:
        raise ZooError(f"{key}: must be a folder, an archive ({', '.join(ARCHIVES)}), or begin with {', '.join(STORES)}")
    if not is_store and not (images.lower().endswith(ARCHIVES) and os.path.isfile(images)):  # noqa: PTH113 -- may be too long
        return Path(images)
    folder = _folder_of(images, is_store)
    inside = [path for path in paths if _is_inside(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            missing = [path for path in inside if not (folder / path).is_file()]
            if missing:
                _copy(_downloads(images, missing) if is_store else _members(images, missing), folder, len(missing), key)
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, tarfile.TarError) as error:  # RuntimeError: encrypted
        raise ZooError(f"{key}: cannot be copied to the cache: {one_line(error)}") from None
    return folder


def _folder_of(images: str, is_store: bool) -> Path:
    if is_store:
        return cached(Path("/", images), "-images")
    state = Path(images).stat()
    return cached(Path(images), f"-{state.st_size:x}-{state.st_mtime_ns:x}-images")


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts


def _copy(files: Found, folder: Path, count: int, key: str) -> None:
    bar, written = console(stderr=True), 0
    partial = folder.with_name(f"{folder.name}.partial")
    shown_files = track(
        files, "copying images", count, console=bar, transient=True, disable=count <= MANY or not bar.is_terminal
    )
    for path, content in shown_files:
        if content is None:
            continue
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(target)
        written += 1
    if is_first() or written:
        free = shutil.disk_usage(folder).free / 1e9
        log.info("%s", printable(f"{key}: {written:,} images copied to {folder} ({free:,.1f} GB are free)"))


def _members(archive: str, paths: Sequence[str]) -> Found:
    """Yield the files of an archive, in its order; a tar is read once from its start to its end."""
    wanted = set(paths)
    if archive.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                if (name := member.filename.removeprefix("./")) in wanted:
                    yield name, file.read(member)
        return
    with tarfile.open(archive, "r|*") as stream:
        for entry in stream:
            if entry.isfile() and (name := entry.name.removeprefix("./")) in wanted:
                content = stream.extractfile(entry)
                yield name, content.read() if content else None


def _downloads(address: str, paths: Sequence[str]) -> Found:
    check_installed("obstore", "stream", f"data.source.images={address}")
    import obstore

    try:
        store = _store(address)
    except Exception as error:  # each store raises its own types
        raise OSError(shown(one_line(error))) from None

    def content(path: str) -> tuple[str, bytes | None]:
        try:
            return path, obstore.get(store, path).bytes().to_bytes()
        except FileNotFoundError:
            return path, None
        except Exception as error:
            raise OSError(f"{path}: {shown(one_line(error))}") from None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, len(paths), 4 * AT_ONCE):  # not all at once, which would fill the memory
            yield from pool.map(content, paths[start : start + 4 * AT_ONCE])


def _store(address: str) -> Any:
    from obstore.store import from_url

    if not address.startswith("s3://"):
        return from_url(address, client_options=CLIENT, retry_config=RETRY)
    import boto3  # knows the profiles of ~/.aws
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.Session()
    options: dict[str, Any] = {"region": session.region_name} if session.region_name else {}
    if session.get_credentials():
        options["credential_provider"] = Boto3CredentialProvider(session)
    own = {"allow_http": True} if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http:") else {}  # a server of the user's
    return from_url(address, client_options=CLIENT | own, retry_config=RETRY, **options)
