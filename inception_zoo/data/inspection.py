"""Checks of an image folder before training: first the layout, then each file once."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from inception_zoo.data.finding import Entry, described, entries, images_below, log_found
from inception_zoo.data.layout import class_name, splits_folder
from inception_zoo.data.reading import fault
from inception_zoo.data.source import Files
from inception_zoo.errors import ZooError
from inception_zoo.system.atomic_files import whole_file
from inception_zoo.system.terminal import console

SPLITS = ("train", "val", "test")
LAYOUT = "train/CLASS/*.jpg, likewise val and test"
CHUNK = 256  # number of files that a thread checks at a time
MANY = 500  # largest number of files without a progress bar
RULES = b"2"  # increase when `fault` detects more than before, so that all files are checked again

Listed = dict[str, tuple[np.ndarray, np.ndarray]]  # by class: paths in the split's folder, and their states (see _state)


def inspect(
    root: Path, splits: Sequence[str] = SPLITS, solution: Mapping[str, str] | None = None
) -> tuple[list[str], dict[str, Files]]:
    """List the classes and the image files of a folder, and check that all images can be read.

    A file is decoded if it is new, if its size or modification time has changed, or if it could not be read the last time.
    The user's cache folder has a list of the good files, and the bad files as text. If it cannot be written, all files are
    decoded each time.

    Args:
        root: contains train/CLASS/**/image, and the same in `val`, `test` or both; or Kaggle's archive of ImageNet.
        splits: names of the splits to look for.
        solution: class of each image by file name without suffix, for a `val` folder without class folders.

    Returns:
        The class names by label, in the order of training's sorted class folders; and the files of each split found.

    Raises:
        ZooError: another layout, a split with other classes than training, or images that cannot be read.
    """
    folder = splits_folder(root)
    if not (folder / "train").is_dir():
        raise ZooError(f"data.root={root}: there is no folder 'train' in it; images belong in {LAYOUT}")
    left_out: list[str] = []
    listed = {split: _list(folder / split, solution, left_out) for split in splits if (folder / split).is_dir()}
    if listed.keys() == {"train"}:
        raise ZooError(f"data.root={root}: a test split is needed; images belong in {folder / 'test'} or {folder / 'val'}")
    classes = list(listed["train"])
    if not classes:
        raise ZooError(f"data.root={root}: {folder / 'train'} has no class folders; images belong in {LAYOUT}")
    for split, found in listed.items():
        if missing := [name for name in classes if name not in found]:
            near = next((f", only of '{name}'" for name in found if name.casefold() == missing[0].casefold()), "")
            raise ZooError(f"data.root={root}: {split} has no images of class '{missing[0]}', which train has{near}")
        if extra := [name for name in found if name not in listed["train"]]:
            raise ZooError(f"data.root={root}: {split} has a class '{extra[0]}', which train does not have")
    files, states = {}, {}
    for split, found in listed.items():
        paths, states[split] = (np.concatenate(column) for column in zip(*found.values(), strict=True))
        counts = torch.tensor([len(paths) for paths, _ in found.values()])
        files[split] = Files(folder / split, paths, torch.arange(len(classes)).repeat_interleave(counts))
    log_found((path for split in files.values() for path in split.paths), left_out, root)
    _check(root, files, states)
    return classes, files


def _list(split: Path, solution: Mapping[str, str] | None, left_out: list[str]) -> Listed:
    classes: Listed = {}
    loose: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries(split, left_out, strict=True):
        if entry.is_dir():
            if (name := class_name(entry.name)) in classes:
                raise ZooError(
                    f"{entry.path}: another folder also has the name '{name}', in other Unicode characters; merge them"
                )
            others: list[str] = []
            classes[name] = _columns(split, images_below(entry.path, others, strict=True))
            if not len(classes[name][0]):
                only = f" (only {described(others, entry.path)})" if others else ""
                raise ZooError(f"{entry.path} has no images{only}; add some, or delete the folder")
            left_out += others
        elif solution is None or split.name != "val":
            unlabelled = "; a test split without labels is not supported" if split.name == "test" else ""
            raise ZooError(f"{entry.path} is not in a class folder; images belong in {LAYOUT}{unlabelled}")
        elif (stem := Path(entry.name).stem) not in solution:
            raise ZooError(f"{entry.path} is not in a class folder, and its class is unknown; move it into one")
        else:
            loose[solution[stem]].append(entry)
    if both := classes.keys() & loose.keys():
        raise ZooError(f"{split} has images of class '{min(both)}' both inside and outside of its folder; keep one of them")
    classes |= {name: _columns(split, entries) for name, entries in loose.items()}
    return dict(sorted(classes.items()))


def _columns(split: Path, images: Iterable[Entry]) -> tuple[np.ndarray, np.ndarray]:
    # One class at a time, so that Python objects exist for the files of one class only, and not for a million files.
    start = len(str(split)) + 1
    rows = [(entry.path[start:], _state(split.name, entry.path[start:], entry)) for entry in images]
    return np.array([path for path, _ in rows], dtype=str), np.frombuffer(b"".join(state for _, state in rows), np.uint64)


def _state(split: str, path: str, entry: Entry) -> bytes:
    """Return 8 bytes that identify the path, size and modification time of a file."""
    try:
        stat = entry.stat()
        state = f"{split}/{path}\0{stat.st_size}\0{stat.st_mtime_ns}"
    except OSError:  # a broken link; decoding reports it
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

    bar = console(stderr=True)
    progress = Progress(console=bar, transient=True, disable=count <= MANY or not bar.is_terminal)
    try:  # threads: Pillow releases the GIL to decode, which is 90% of the work
        with progress, ThreadPoolExecutor(os.cpu_count()) as pool:
            task = progress.add_task("checking images", total=count)
            for (split, rows), reasons in zip(chunks, pool.map(faults, chunks), strict=True):
                good[split][rows] = [reason is None for reason in reasons]
                named = zip(files[split].paths[rows], reasons, strict=True)
                bad += [f"{files[split].root / str(path)}: {reason}" for path, reason in named if reason]
                progress.advance(task, len(rows))
    finally:  # an interrupted check can then be resumed
        written = _write(report, np.concatenate([states[split][good[split]] for split in files]), bad)
    if bad:
        dots, where = ", …" if len(bad) > 3 else "", f"; full list: {report}" if written else ""
        raise ZooError(
            f"data.root={root}: {len(bad)} of {sum(map(len, files.values()))} images cannot be read; "
            f"repair or delete them: {', '.join(bad[:3])}{dots}{where}"
        )


def _report(root: Path) -> Path:
    """Return the path of the text file of bad images. A binary file next to it has the states of good ones."""
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
