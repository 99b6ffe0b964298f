"""Files that an untrusted folder may contain: every kind that is not a regular file, and changed bytes of real files."""

import json
import os
import resource
import signal
import socket
import stat
import traceback
from contextlib import chdir
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tools.examples import examples

from inception_zoo.data.imagefolder import imagefolder
from inception_zoo.data.imagenet import imagenet
from inception_zoo.data.inspection import treat_bad
from inception_zoo.data.optimize import optimize_folder
from inception_zoo.data.reading import decode_image
from inception_zoo.data.source import Files, Source
from inception_zoo.data.stream import stream
from inception_zoo.errors import ZooError
from inception_zoo.report.collect import read_curves

GIB = 2**30


def _socket(path):
    with chdir(path.parent), socket.socket(socket.AF_UNIX) as made:  # a socket's path has at most 107 bytes
        made.bind(path.name)


def _device(kind, major, minor):
    def make(path):
        try:
            os.mknod(path, 0o600 | kind, os.makedev(major, minor))
        except PermissionError:  # without root: a link to one
            path.symlink_to("/dev/null")

    return make


def _locked(path):
    path.write_bytes(b"\0" * 64)
    path.chmod(0)


def _link(target):
    return lambda path: path.symlink_to(target)


SPECIAL = {  # kinds that must be named, or could block or never end
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a link to zeros": _link("/dev/zero"),
    "a link to random bytes": _link("/dev/random"),
    "a link to the terminal": _link("/dev/tty"),
    "a character device": _device(stat.S_IFCHR, 1, 5),
    "a block device": _device(stat.S_IFBLK, 7, 0),
}
KINDS = {  # more kinds, which a reader may also treat as absent
    **SPECIAL,
    "a folder": Path.mkdir,
    "a link to nothing": _link("nowhere"),
    "a loop": lambda path: path.symlink_to(path.name),
    "no permission": _locked,
    "a file of /proc": _link("/proc/self/status"),
    "memory": _link("/proc/self/mem"),
}


def plant(path, kind):
    """Replace a path by a file of this kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.exists():
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    KINDS[kind](path)


def in_a_child(read, seconds=30, memory=GIB):
    """Call `read` in a fork that may allocate `memory` more bytes; return its exit status and what it wrote to stderr."""
    receive, send = os.pipe()
    if not (child := os.fork()):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        os.dup2(send, 2)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
        status = 1
        try:
            read()
            status = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        os._exit(status)
    os.close(send)
    with open(receive, "rb") as pipe:  # noqa: PTH123
        said = pipe.read().decode(errors="replace")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


# Changed bytes


def pictures(root, count=3):
    """Write `count` JPEGs of each of two classes; return them as `Files`."""
    pixels = np.random.default_rng(0).integers(0, 255, (2, count, 12, 16, 3), dtype=np.uint8)
    for label, name in enumerate("ab"):
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(pixels[label, number]).save(root / name / f"{number}.jpg")
    paths = [f"{name}/{number}.jpg" for name in "ab" for number in range(count)]
    return Files(root, np.array(paths), torch.arange(2).repeat_interleave(count))


def chunks(folder):
    """Write a small data set in LitData's chunks; return its folder."""
    parts = {name: pictures(folder / "photos" / name) for name in ("train", "val")}
    optimize_folder(Source("photos", parts["train"], None, ["a", "b"], parts["val"]), folder / "set", "4KB", workers=1)
    return folder / "set"


@cache
def _written():
    with TemporaryDirectory() as folder:
        root = chunks(Path(folder))
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.*")}


def _copied(root):
    for name, content in _written().items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    return root


ODD = [None, True, 0, -1, 1.5, 2**31, 2**63, 10**30, "", "..", "../../other.bin", "/etc/passwd", "zstd", "pickle", "a\0b"]
ODD += ["\ud800", [], {}, ["pickle"], "[" * 5000, {"algorithm": "x", "level": "chunk"}]


@st.composite
def changed_json(draw, plain):
    """Replace one value somewhere in plain containers, or remove it."""
    if isinstance(plain, dict | list) and plain and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(plain) if isinstance(plain, dict) else range(len(plain))))
        changed = plain.copy()
        if draw(st.integers(0, 9)):
            changed[key] = draw(changed_json(plain[key]))
        else:
            del changed[key]
        return changed
    return draw(st.sampled_from(ODD))


@st.composite
def changed_bytes(draw, data):
    """Change bytes, mostly near the start, where sizes and offsets are."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, min(len(data) - 1, draw(st.sampled_from([8, 64, len(data)])))))
        new = draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 4, bytes(4), b"\0\0\0\x80"])))
        data = data[:at] + new + data[at + len(new) :]
    return data[: draw(st.sampled_from([len(data)] * 4 + [len(data) // 2, 3, 0]))] or b"\0"


def one_line(read):
    """Call `read`; a ZooError must be one line, and nothing else may be raised."""
    try:
        read()
    except ZooError as error:
        assert "\n" not in str(error) or "photos/" in str(error), error  # TREE, which shows folders


def _whole(read):
    return read()


def read_chunks(root):
    for split in stream(str(root)).splits().values():
        for index in range(len(split) if split else 0):
            one_line(lambda: split.dataset(3, _whole)[index])  # noqa: B023 -- called at once


@examples(25)
@given(st.data())
def any_bytes_of_chunks_are_images_or_a_line(data):
    with TemporaryDirectory() as folder:
        root = _copied(Path(folder))
        path = data.draw(st.sampled_from(sorted(root.rglob("*.bin")) + [root / "train/index.json"] * 2))
        if path.suffix == ".json":
            path.write_text(json.dumps(data.draw(changed_json(json.loads(path.read_text())))))
        else:
            path.write_bytes(data.draw(changed_bytes(path.read_bytes())).ljust(path.stat().st_size, b"\0"))
        status, said = in_a_child(lambda: one_line(lambda: read_chunks(root)), seconds=60)
        assert status == 0, f"{status}: {said}"


FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000")


@examples(100)
@given(st.data())
def any_bytes_are_an_image_or_a_line(data):
    file = BytesIO()
    Image.new("RGB", (33, 21), "teal").save(file, data.draw(st.sampled_from(FORMATS)))
    content = data.draw(st.one_of(changed_bytes(file.getvalue()), st.binary(max_size=64)))
    one_line(lambda: decode_image(BytesIO(content), 3, "image"))


CSV = {
    "LOC_val_solution.csv": b"ImageId,PredictionString\nx,n00000001 1 2 3 4\n",
    "words.txt": b"n00000001\ttench\nn00000002\tgoldfish\n",
    "imagenet_class_index.json": b'{"0": ["n00000001", "tench"]}',
    "csv/version_0/metrics.csv": b"epoch,step,val/top1\n0,1,0.5\n1,2,0.6\n",
}


@examples(100)
@given(st.data())
def any_bytes_are_a_table_or_a_line(data):
    name = data.draw(st.sampled_from(sorted(CSV)))
    with TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.draw(st.one_of(changed_bytes(CSV[name]), st.binary(max_size=64))))
        one_line(lambda: (read_curves if name.endswith("metrics.csv") else _imagenet)(Path(folder)))


def _imagenet(root):
    photos = pictures(root / "photos")
    for label in (1, 2):
        (root / "train" / f"n0000000{label}").mkdir(parents=True)
        (photos.root / f"{'ab'[label - 1]}/0.jpg").rename(root / "train" / f"n0000000{label}" / "0.jpg")
    (root / "val").mkdir()
    (photos.root / "a/1.jpg").rename(root / "val" / "x.jpg")
    (photos.root / "b/1.jpg").rename(root / "val" / "y.jpg")
    imagenet(str(root))


def image_folder(root):
    treat_bad(imagefolder(str(root)), "error", str(root))


PROPERTIES = (any_bytes_of_chunks_are_images_or_a_line, any_bytes_are_an_image_or_a_line, any_bytes_are_a_table_or_a_line)
