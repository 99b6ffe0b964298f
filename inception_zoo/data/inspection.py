"""Checks of an image folder before training: first the layout, then each file once."""

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from inception_zoo.data.finding import Entry, described, entries, images_below, log_found
from inception_zoo.data.labels import present
from inception_zoo.data.layout import SPLITS, are_classes, check_names, class_folders, class_name, split_folders, splits_folder
from inception_zoo.data.reading import fault
from inception_zoo.data.source import Files, Source
from inception_zoo.errors import TREE, ZooError, printable
from inception_zoo.system.atomic_files import whole_file, write_whole
from inception_zoo.system.ranks import is_first
from inception_zoo.system.terminal import console

CHUNK = 256  # number of files that a thread checks at a time
MANY = 500  # largest number of files without a progress bar
BAD = "unreadable_images.txt"  # in the run folder: path and reason of each
RULES = b"2"  # increase when `fault` detects more than before, so that all files are checked again

log = logging.getLogger(__name__)

Listed = dict[str, tuple[np.ndarray, np.ndarray]]  # by class: paths in the split's folder, and their states (see state_of)


def inspect(name: str, root: Path, splits: Collection[str] = SPLITS, solution: Mapping[str, str] | None = None) -> Source:
    """List the classes and the image files of a folder, and find the images that cannot be read.

    A file is decoded if it is new, if its size or modification time has changed, or if it could not be read the last time.
    The user's cache folder has a list of the good files. If it cannot be written, all files are decoded each time.

    Args:
        name: of the data set.
        root: see `split_folders`; the images are in CLASS/**/image below these folders.
        splits: names of the splits to look for.
        solution: class of each image by file name without suffix, for a `val` folder without class folders.

    Returns:
        The data set, whose splits are of the class `Files`. Labels are in the order of training's sorted class folders.

    Raises:
        ZooError: another layout, or a split with other classes than training.
    """
    folders = split_folders(root)
    beside = sorted({*class_folders(splits_folder(root))} - {folder.name for folder in folders.values()})
    if beside and is_first() and folders["train"].name == "train":
        log.warning("%s", printable(f"{root}: not used: the folders {', '.join(beside[:5])} beside train"))
    left_out: list[str] = []
    listed = {split: _list(folders[split], split, solution, left_out) for split in splits if split in folders}
    classes = list(listed["train"])
    check_names(f"data.root={root}", classes)
    if not are_classes(classes):
        raise ZooError(f"data.root={root}: {folders['train']} has no class folders; images belong in these:{TREE}")
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
        files[split] = Files(folders[split], paths, torch.arange(len(classes)).repeat_interleave(counts))
    log_found((path for split in files.values() for path in split.paths), left_out, root)
    kept, bad, lost = check_files(root, files, states)
    return Source(name, kept["train"], kept.get("test"), classes, kept.get("val"), bad, lost)


def _list(folder: Path, split: str, solution: Mapping[str, str] | None, left_out: list[str]) -> Listed:
    classes: Listed = {}
    loose: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries(folder, left_out, strict=True):
        if entry.is_dir():
            if (name := class_name(entry.name)) in classes:
                raise ZooError(f"{entry.path}: another folder has the name '{name}', in other Unicode characters; merge them")
            others: list[str] = []
            classes[name] = _columns(folder, images_below(entry.path, others, strict=True))
            if not len(classes[name][0]):
                only = f" (only {described(others, entry.path)})" if others else ""
                raise ZooError(f"{entry.path} has no images{only}; add some, or delete the folder")
            left_out += others
        elif solution is None or split != "val":
            unlabelled = "; a test split without labels is not supported" if split == "test" else ""
            raise ZooError(f"{entry.path} is not in a class folder{unlabelled}; images belong in these:{TREE}")
        elif (stem := Path(entry.name).stem) not in solution:
            raise ZooError(f"{entry.path} is not in a class folder, and its class is unknown; move it into one")
        else:
            loose[solution[stem]].append(entry)
    if both := classes.keys() & loose.keys():
        raise ZooError(f"{folder} has images of class '{min(both)}' both inside and outside of its folder; keep one of them")
    classes |= {name: _columns(folder, entries) for name, entries in loose.items()}
    return dict(sorted(classes.items()))


def _columns(split: Path, images: Iterable[Entry]) -> tuple[np.ndarray, np.ndarray]:
    # One class at a time, so that Python objects exist for the files of one class only, and not for a million files.
    start = len(str(split)) + 1
    rows = [(entry.path[start:], state_of(split.name, entry.path[start:], entry)) for entry in images]
    return np.array([path for path, _ in rows], dtype=str), np.frombuffer(b"".join(state for _, state in rows), np.uint64)


def state_of(split: str, path: str, entry: Entry | Path) -> bytes:
    """Return 8 bytes that identify the path, size and modification time of a file."""
    try:
        stat = entry.stat()
        state = f"{split}/{path}\0{stat.st_size}\0{stat.st_mtime_ns}"
    except OSError:  # a broken link; decoding reports it
        state = path
    return hashlib.blake2b(os.fsencode(state), digest_size=8, key=RULES).digest()


def check_files(
    root: Path, files: Mapping[str, Files], states: Mapping[str, np.ndarray]
) -> tuple[dict[str, Files], list[str], list[tuple[str, int]]]:
    """Return the files that can be read, by split; the others' paths with reasons; splits and labels without any that can.

    Args:
        root: of the data set, which names the list of good files in the user's cache folder.
        files: by split.
        states: of the files, see `state_of`.
    """
    cache = cached(root, ".good")
    known = np.array([], np.uint64)
    with suppress(OSError):
        known = np.fromfile(cache, np.uint64)
    good = {split: np.isin(states[split], known) for split in files}
    unknown = {split: np.flatnonzero(~good[split]) for split in files}
    chunks = [(split, rows[i : i + CHUNK]) for split, rows in unknown.items() for i in range(0, len(rows), CHUNK)]
    count, bad = sum(map(len, unknown.values())), []

    def faults(chunk: tuple[str, np.ndarray]) -> list[str | None]:
        split, rows = chunk
        return [fault(files[split].root / str(path)) for path in files[split].paths[rows]]

    bar = console(stderr=True)
    quiet = count <= MANY or not bar.is_terminal
    try:  # threads: Pillow releases the GIL to decode, which is 90% of the work
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = zip(chunks, pool.map(faults, chunks), strict=True)
            shown = track(done, "checking images", len(chunks), console=bar, transient=True, disable=quiet)
            for (split, rows), reasons in shown:
                good[split][rows] = [reason is None for reason in reasons]
                named = zip(files[split].paths[rows], reasons, strict=True)
                bad += [f"{files[split].root / str(path)}: {reason}" for path, reason in named if reason]
    finally:  # an interrupted check can then be resumed
        with suppress(OSError, ZooError), whole_file(cache, parents=True) as temporary:
            np.concatenate([states[split][good[split]] for split in files]).tofile(temporary)
    kept = {split: each[torch.from_numpy(good[split])] if bad else each for split, each in files.items()}
    lost = [
        (name, label) for name, split in files.items() for label in sorted(present(split.labels) - present(kept[name].labels))
    ]
    return kept, bad, lost


def treat_bad(source: Source, how: str, root: str, folder: Path | None = None) -> None:
    """Treat the files that cannot be read: write a list of them, and then raise or log.

    Args:
        source: the data set.
        how: `error`, or `skip` to continue without them.
        root: folder of the data set.
        folder: of the list with `skip`. For an error, and with None, it is in the user's cache folder.

    Raises:
        ZooError: there are such files, and `how` is `error`; or a class has no other images.
    """
    if not source.bad:
        return
    splits = {name: split for name, split in source.splits().items() if isinstance(split, Files)}
    # the folder of a run that does not start is removed
    path, where = folder / BAD if folder and how == "skip" and not source.lost else cached(Path(root), ".txt"), ""
    if is_first():
        with suppress(OSError, ZooError):
            write_whole(path, "".join(f"{line}\n" for line in source.bad))
            where = f"; full list: {path}"
    count = f"{len(source.bad)} of {len(source.bad) + sum(map(len, splits.values()))} images cannot be read"
    if how == "error":
        named = ", ".join(source.bad[:3]) + (", …" if len(source.bad) > 3 else "")
        raise ZooError(f"data.root={root}: {count}; repair or delete them, or set data.on_bad_file=skip: {named}{where}")
    if source.lost:
        split, label = source.lost[0]
        raise ZooError(
            f"data.root={root}: no image of class '{source.classes[label]}' in {split} can be read; repair them{where}"
        )
    if is_first():
        log.warning("%s", printable(f"data.on_bad_file=skip: {count}; they are left out{where}"))


def cached(root: Path, suffix: str) -> Path:
    """Return the path of a file about `root` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 (Path.home() may raise)
    return Path(cache, "inception_zoo", f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}{suffix}")
