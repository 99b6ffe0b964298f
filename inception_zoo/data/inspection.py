"""Image folders, checked before anything long starts: first the layout, then every file, once."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from inception_zoo.data.layout import splits_folder
from inception_zoo.data.pictures import SUFFIXES
from inception_zoo.data.reading import fault
from inception_zoo.data.source import Files
from inception_zoo.errors import ZooError
from inception_zoo.system.atomic_files import whole_file

SPLITS = ("train", "val", "test")
LAYOUT = "train/CLASS/*.jpg, likewise val and test"
CHUNK = 256  # files that a thread checks at a time
MANY = 500  # files; more of them get a progress bar
RULES = b"2"  # count up when `fault` finds more than before, and every file is checked again

Listed = dict[str, tuple[np.ndarray, np.ndarray]]  # by class: paths in the split's folder, their states (see _state)


def inspect(
    root: Path, splits: Sequence[str] = SPLITS, solution: Mapping[str, str] | None = None
) -> tuple[list[str], dict[str, Files]]:
    """Class names by label, and the files of each split that there is. Labels count training's sorted class folders.

    A file is decoded when it is new, when its size or time has changed, and when it was bad. What was good stands in
    the user's cache folder, and what was bad beside it as text; where that cannot be written, all are decoded each time.

    Args:
        root: holds train/CLASS/**/image, the same in val, in test, or in both; or Kaggle's archive of ImageNet.
        splits: that are looked for.
        solution: class of each image, by name without suffix, for a `val` folder without class folders.

    Raises:
        ZooError: another layout, a split with other classes than training's, or images that cannot be read.
    """
    folder = splits_folder(root)
    if not (folder / "train").is_dir():
        raise ZooError(f"data.root={root}: there is no folder 'train' in it; images belong in {LAYOUT}")
    try:
        listed = {split: _list(folder / split, solution) for split in splits if (folder / split).is_dir()}
    except OSError as error:
        raise ZooError(f"data.root={root}: {error.filename} cannot be read: {error.strerror}") from None
    if listed.keys() == {"train"}:
        raise ZooError(f"data.root={root}: a test split is needed; images belong in {folder / 'test'} or {folder / 'val'}")
    classes = list(listed["train"])
    if not classes:
        raise ZooError(f"data.root={root}: {folder / 'train'} has no class folders; images belong in {LAYOUT}")
    for split, found in listed.items():
        if missing := [name for name in classes if name not in found]:
            raise ZooError(f"data.root={root}: {split} has no images of class '{missing[0]}', which train has")
        if extra := [name for name in found if name not in listed["train"]]:
            raise ZooError(f"data.root={root}: {split} has a class '{extra[0]}', which train does not have")
    files, states = {}, {}
    for split, found in listed.items():
        paths, states[split] = (np.concatenate(column) for column in zip(*found.values(), strict=True))
        counts = torch.tensor([len(paths) for paths, _ in found.values()])
        files[split] = Files(folder / split, paths, torch.arange(len(classes)).repeat_interleave(counts))
    _check(root, files, states)
    return classes, files


def _list(split: Path, solution: Mapping[str, str] | None) -> Listed:
    classes: Listed = {}
    loose: dict[str, list[os.DirEntry[str]]] = defaultdict(list)
    for entry in _entries(split):
        if entry.is_dir():
            classes[entry.name] = _columns(split, _images(entry))
            if not len(classes[entry.name][0]):
                raise ZooError(f"{entry.path} has no images; fill or delete it")
        elif solution is None or split.name != "val":
            unlabelled = "; a test split without labels is not supported" if split.name == "test" else ""
            raise ZooError(f"{entry.path} is in no class folder; images belong in {LAYOUT}{unlabelled}")
        elif (stem := Path(entry.name).stem) not in solution:
            raise ZooError(f"{entry.path} is in no class folder, and its class is not known otherwise")
        else:
            loose[solution[stem]].append(entry)
    if both := classes.keys() & loose.keys():
        raise ZooError(f"{split} has a folder of class '{min(both)}' and images of it beside; keep one of them")
    classes |= {name: _columns(split, entries) for name, entries in loose.items()}
    return dict(sorted(classes.items()))


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """Folders and images, sorted. Hidden files are left out, as systems scatter them; hidden folders hold copies of images."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir() and entry.name.startswith("."):
            raise ZooError(f"{entry.path} is a hidden folder among the images; delete it or move it elsewhere")
        if entry.is_symlink() and entry.is_dir() and Path(folder).resolve().is_relative_to(Path(entry.path).resolve()):
            raise ZooError(f"{entry.path} links to a folder that it stands in; delete it")
    images = tuple(SUFFIXES)
    return [entry for entry in entries if entry.is_dir() or (entry.name[0] != "." and entry.name.lower().endswith(images))]


def _images(folder: os.DirEntry[str]) -> Iterator[os.DirEntry[str]]:
    for entry in _entries(folder.path):
        if entry.is_dir():
            yield from _images(entry)
        else:
            yield entry


def _columns(split: Path, images: Iterable[os.DirEntry[str]]) -> tuple[np.ndarray, np.ndarray]:
    # One class at a time: of a million files, no more than one class's are Python objects at once.
    start = len(str(split)) + 1
    rows = [(entry.path[start:], _state(split.name, entry.path[start:], entry)) for entry in images]
    return np.array([path for path, _ in rows], dtype=str), np.frombuffer(b"".join(state for _, state in rows), np.uint64)


def _state(split: str, path: str, entry: os.DirEntry[str]) -> bytes:
    """8 bytes that stand for a file as it is now: for its path, size and time."""
    try:
        stat = entry.stat()
        state = f"{split}/{path}\0{stat.st_size}\0{stat.st_mtime_ns}"
    except OSError:  # a link to nowhere; decoding it tells that
        state = path
    return hashlib.blake2b(os.fsencode(state), digest_size=8, key=RULES).digest()


def _check(root: Path, files: Mapping[str, Files], states: Mapping[str, np.ndarray]) -> None:
    report = _report(root)
    known = _good_before(report)
    good = {split: np.isin(states[split], known) for split in files}
    unknown = {split: np.flatnonzero(~good[split]) for split in files}
    chunks = [(split, rows[i : i + CHUNK]) for split, rows in unknown.items() for i in range(0, len(rows), CHUNK)]
    count, bad = sum(map(len, unknown.values())), []

    def faults(chunk: tuple[str, np.ndarray]) -> list[str | None]:
        split, rows = chunk
        return [fault(files[split].root / str(path)) for path in files[split].paths[rows]]

    console = Console(stderr=True)
    progress = Progress(console=console, transient=True, disable=count <= MANY or not console.is_terminal)
    try:  # threads: Pillow decodes outside of Python's lock, which is nine tenths of the work
        with progress, ThreadPoolExecutor(os.cpu_count()) as pool:
            task = progress.add_task("checking images", total=count)
            for (split, rows), reasons in zip(chunks, pool.map(faults, chunks), strict=True):
                good[split][rows] = [reason is None for reason in reasons]
                named = zip(files[split].paths[rows], reasons, strict=True)
                bad += [f"{files[split].root / str(path)}: {reason}" for path, reason in named if reason]
                progress.advance(task, len(rows))
    finally:  # an interrupted check goes on where it was
        written = _write(report, np.concatenate([states[split][good[split]] for split in files]), bad)
    if bad:
        dots, where = ", …" if len(bad) > 3 else "", f"; all of them: {report}" if written else ""
        raise ZooError(
            f"data.root={root}: {len(bad)} of {sum(map(len, files.values()))} images cannot be read; "
            f"repair or delete them: {', '.join(bad[:3])}{dots}{where}"
        )


def _report(root: Path) -> Path:
    """The text file of bad images; beside it are the states of the good ones, as a binary file."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 (Path.home() may raise)
    return Path(cache, "inception_zoo", f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.txt")


def _good_before(report: Path) -> np.ndarray:
    try:
        return np.fromfile(report.with_suffix(".good"), np.uint64)
    except OSError:
        return np.array([], np.uint64)


def _write(report: Path, good: np.ndarray, bad: list[str]) -> bool:
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(report.with_suffix(".good")) as temporary:
            good.tofile(temporary)
        with whole_file(report) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in bad), encoding="utf-8", errors="surrogateescape")
        return True
    except (OSError, ZooError):
        return False
