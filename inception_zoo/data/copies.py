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
from inception_zoo.data.pictures import BYTES
from inception_zoo.errors import ZooError, check_installed, one_line, printable, shown
from inception_zoo.system.ranks import is_first
from inception_zoo.system.regular_files import opened
from inception_zoo.system.terminal import console

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
STORES = ("s3://", "gs://", "az://")
AT_ONCE = 16  # downloads at the same time
CLIENT: Any = {"connect_timeout": "10s"}
RETRY: Any = {"max_retries": 3}

log = logging.getLogger(__name__)
Found = Iterator[tuple[str, bytes | None]]  # path and content of each file; a missing file has None as content


def local_folder(images: str, paths: Sequence[str]) -> Path:
    """Return the folder that has these images, or copies of them.

    The copies are in the user's cache folder. Each address has a folder there, and each archive; a changed archive gets a new
    one. Only files that are not there are copied, so that an interrupted copy can be continued. A file that does not exist
    is left out.

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
    if not is_store and not os.path.isfile(images):  # noqa: PTH113 -- Path.is_file raises for long names
        return Path(images)
    if not is_store and not images.lower().endswith(ARCHIVES):
        raise ZooError(f"{key}: must be a folder, or an archive ({', '.join(ARCHIVES)})")
    folder = _folder_of(images, is_store)
    inside = [path for path in paths if _is_inside(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            missing = [path for path in inside if not _is_copied(folder / path)]
            if missing:
                _copy(_downloads(images, missing) if is_store else _members(images, missing), folder, len(missing), key)
    except ZooError:
        raise
    except Exception as error:  # the readers of archives raise many types
        what = shown(one_line(error)) or type(error).__name__
        raise ZooError(
            f"{key}: cannot be copied to {folder}: {what}; free space there or set XDG_CACHE_HOME, or repair it"
        ) from None
    return folder


def _folder_of(images: str, is_store: bool) -> Path:
    if is_store:  # several servers may have a bucket of this name
        return cached(Path("/", os.environ.get("AWS_ENDPOINT_URL", ""), images), "-images")
    state = Path(images).stat()
    return cached(Path(images), f"-{state.st_size:x}-{state.st_mtime_ns:x}-images")


def _is_copied(path: Path) -> bool:
    """Return True for a copy that is not empty, as one may be after a power failure."""
    return path.is_file() and path.stat().st_size > 0


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and "\\" not in path and ":" not in parts[0]


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
        if len(content) > BYTES:
            raise ZooError(f"{key}: {path} is larger than {BYTES // 2**20:,} MiB; leave it out of the table")
        partial.write_bytes(content)  # without fsync, which takes longer than the copy; see `_is_copied`
        partial.replace(target)
        written += 1
    if is_first() or written:
        free = shutil.disk_usage(folder).free / 1e9
        log.info("%s", printable(f"{key}: {written:,} images copied to {folder} ({free:,.1f} GB are free)"))


def _members(archive: str, paths: Sequence[str]) -> Found:
    """Yield the files of an archive, in its order; a tar is read once from its start to its end."""
    wanted = set(paths)
    if archive.lower().endswith(".zip"):
        with opened(archive) as source, zipfile.ZipFile(source) as file:
            for member in file.infolist():
                if (name := member.filename.removeprefix("./")) in wanted:
                    with file.open(member) as content:
                        yield name, content.read(BYTES + 1)  # not all that a small archive may expand to
        return
    with opened(archive) as source, tarfile.open(fileobj=source, mode="r|*") as stream:
        for entry in stream:
            if entry.isfile() and (name := entry.name.removeprefix("./")) in wanted:
                member_file = stream.extractfile(entry)
                yield name, member_file.read(BYTES + 1) if member_file else None


def _downloads(address: str, paths: Sequence[str]) -> Found:
    for library in ("obstore", "boto3"):
        check_installed(library, "stream", f"data.source.images={address}")
    import obstore

    store = _store(address)

    def content(path: str) -> tuple[str, bytes | None]:
        try:
            found = obstore.get(store, path)
            if found.meta["size"] > BYTES:
                raise ZooError(f"data.source.images={address}: {path} is larger than {BYTES // 2**20:,} MiB")
            return path, found.bytes().to_bytes()
        except FileNotFoundError:
            return path, None
        except ZooError:
            raise
        except Exception as error:  # each store raises its own types
            raise OSError(f"{path}: {one_line(error)}") from None

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
