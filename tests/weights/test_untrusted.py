"""Untrusted files: each bad file gives a one-line error, runs no code, needs little memory and leaves no files behind."""

import csv
import gzip
import io
import json
import os
import pickle
import resource
import struct
import tarfile
import time
import zipfile
import zlib
from argparse import Namespace
from contextlib import contextmanager

import h5py
import numpy as np
import pytest
import torch
from conftest import SMALL, lines
from PIL import Image, PngImagePlugin

from inception_zoo.cli.main import main as cli
from inception_zoo.data.fashion_mnist import FILES, fashion_mnist
from inception_zoo.data.reading import read_image
from inception_zoo.errors import ZooError
from inception_zoo.report.page import write_report
from inception_zoo.training.atomic_checkpoints import read_checkpoint
from inception_zoo.weights.files import read_weights

CALM = 2**30  # bytes: memory limit for reading a bad file of a few KB


class Evil:
    """An object that creates the file `pwned` if an unpickler runs its code."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def saved(content, **how):
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def zipped(*parts, comment=b"", packed=zipfile.ZIP_STORED, claim=None):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packed) as archive:
        for name, content in parts:
            archive.writestr(name, content)
        archive.comment = comment
        for info in archive.filelist if claim else ():
            info.file_size = info.compress_size = claim
    return file.getvalue()


def tarred():
    """Return a file in torch's oldest format."""
    file, content = io.BytesIO(), pickle.dumps(Evil())
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def scripted():
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Identity()), file)
    return file.getvalue()


def tensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def keras(fill):
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        fill(root)
    return file.getvalue()


def virtual(root):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    root.create_virtual_dataset("w", layout)


def crowd(root):
    for number in range(40):
        root.create_dataset(f"w{number}", (2**18,), "f4", chunks=(2**18,), compression="gzip", data=np.zeros(2**18, "f4"))


W = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
W1 = torch.ones(1)
PAGES = (b"<!DOCTYPE html><html>404</html>", b"\n <html lang=en>")
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
DEEP = b'{"__metadata__":{"inception_zoo":"' + b"[" * 50_000 + b'"},"w":' + json.dumps(W).encode() + b"}"
WEIGHTS = {  # suffix and case → bytes, fragment of the error message
    ".pth code": (saved({"state_dict": Evil()}), "contains an object (posix.system)"),
    ".ckpt code beside tensors": (
        saved({"state_dict": {"w": W1}, "hyper_parameters": Evil()}),
        "contains an object (posix.system)",
    ),
    ".pth code in a command line": (
        saved({"model": {"a.w": W1}, "args": Namespace(a=Evil())}),
        "contains an object (posix.system)",
    ),
    ".pt code, without a zip": (
        saved({"w": Evil()}, _use_new_zipfile_serialization=False),
        "contains an object (posix.system)",
    ),
    ".bin code, a bare pickle": (pickle.dumps(Evil()), "cannot be read"),
    ".pth code, in tar": (tarred(), "is an archive or compressed; unpack it"),
    ".pth code, in a zip of another name": (zipped(("a/data.pkl", pickle.dumps(Evil())), ("a/version", "3")), "cannot be read"),
    ".pth a whole module": (
        saved(torch.nn.Sequential()),
        "contains an object (torch.nn.modules.container.Sequential), as after torch.save(model), and is not read: "
        "it could run code; save the weights alone where the model was made: torch.save(model.state_dict(), 'weights.pth')",
    ),
    ".pt TorchScript": (scripted(), "it is a TorchScript program; save the weights alone"),
    ".pt torch.export": (
        zipped(("a/archive_format", "pt2"), ("a/byteorder", "little")),
        "it is a program of torch.export; save",
    ),
    ".pth ONNX": (b"\x08\x0a\x12\x07pytorch", "is an ONNX file; give the weights from which it was exported"),
    ".onnx ONNX": (b"\x08\x08:\x80\x01\x0a", "is an ONNX file; give the weights from which it was exported"),
    ".pth cut short": (saved({"w": torch.ones(100)})[:-300], "is damaged or incomplete (File is not a zip file); download or"),
    ".pt cut short, without a zip": (
        saved({"w": torch.ones(100)}, _use_new_zipfile_serialization=False)[:-300],
        "it is damaged or incomplete: download or copy it again",
    ),
    ".safetensors cut short": (tensors({"w": {**W, "shape": [9], "data_offsets": [0, 36]}}, bytes(4)), "damaged or incomplete"),
    **{f"{suffix} empty": (b"", "is empty; download or copy it again") for suffix in (".pth", ".safetensors", ".h5")},
    **{f"{suffix} a web page": (PAGES[0], "is a web page") for suffix in (".pth", ".safetensors", ".h5")},
    ".bin a web page without a type": (PAGES[1], "is a web page, not weights; download the file that the page links to"),
    **{f"{suffix} Git LFS": (LFS, "is a Git LFS pointer, not the weights; run `git lfs pull`") for suffix in (".bin", ".h5")},
    ".pth gzip": (gzip.compress(b"weights"), "is an archive or compressed; unpack it"),
    ".pth safetensors": (
        tensors({"w": W}, bytes(4)),
        "has the content of a .safetensors file; rename it to weights.safetensors",
    ),
    ".pth Keras": (keras(crowd), "has the content of a .h5 file; rename it to weights.h5"),
    ".safetensors torch": (saved({"a.w": W1}), "has the content of a .pth file; rename it to weights.pth"),
    ".pth a list": (saved([torch.ones(1)]), "contains a list, not a mapping of names to tensors"),
    ".pth without tensors": (saved({"w": 1}), "contains no weights"),
    ".pth a bomb of one part": (
        zipped(("a/data.pkl", bytes(2**26)), packed=zipfile.ZIP_DEFLATED),
        "'a/data.pkl' is compressed",
    ),
    ".pth false sizes": (zipped(("a/data.pkl", b"x"), claim=2**31), "its entries claim more bytes than the file has"),
    ".pth 100,001 parts": (zipped(*((f"{n}", b"") for n in range(100_001))), "it has 100,001 entries"),
    ".pth a path upwards": (zipped(("a/../../data.pkl", b"x")), "has a path outside of the archive"),
    ".pth a path from the root": (zipped(("/etc/data.pkl", b"x")), "has a path outside of the archive"),
    ".pth a second list of parts": (
        zipped(("a/data.pkl", b"x"), comment=zipped(("b", b""))),
        "data before the first entry",
    ),
    ".pth a comment": (zipped(("a/data.pkl", b"x"), comment=b"PK"), "it ends with a comment"),
    ".safetensors a huge header": (tensors({}, length=2**62), "cannot be read"),
    ".safetensors no JSON": (tensors(b"{{{{"), "cannot be read"),
    ".safetensors offsets outside": (
        tensors({"w": {**W, "shape": [2**40], "data_offsets": [0, 2**42]}}, bytes(4)),
        "cannot be read",
    ),
    ".safetensors a false shape": (tensors({"w": {**W, "shape": [2**40]}}, bytes(4)), "cannot be read"),
    ".safetensors no dtype": (tensors({"w": {**W, "dtype": "PICKLE"}}, bytes(4)), "cannot be read"),
    ".safetensors a card without end": (tensors(DEEP, bytes(4)), "cannot be read"),
    ".h5 no HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(9), "cannot be read"),
    ".h5 a bomb": (keras(lambda root: root.create_dataset("w", (2**40,), "f4", chunks=(2**20,))), "claim"),
    ".h5 many small bombs": (keras(crowd), "claim"),
    ".h5 another file": (
        keras(lambda root: root.create_dataset("w", (4,), "f4", external=[("/etc/passwd", 0, 16)])),
        "points to another",
    ),
    ".h5 another file's array": (keras(virtual), "points to another file"),
    ".h5 no numbers": (
        keras(lambda root: root.create_dataset("w", (2,), h5py.string_dtype(), data=["a", "b"])),
        "cannot be read",
    ),
    ".h5 nothing": (keras(lambda root: root.create_group("layers")), "contains no weights"),
}


@pytest.fixture(autouse=True)
def calm(tmp_path, monkeypatch):
    """Disable torch's safe loading through the environment; after the test, check executed code, memory and time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    most, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    assert not list(tmp_path.rglob("pwned"))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most) * 1024 < CALM
    assert time.monotonic() - started < 30


@contextmanager
def refused(path, message):
    """Expect a one-line ZooError that names the file and the reason, and no change to any file."""
    before = contents(path.parent)
    with pytest.raises(ZooError) as caught:
        yield caught
    said = str(caught.value)
    assert message in said and str(path) in said and "\n" not in said and len(said) < 600
    assert contents(path.parent) == before


def contents(folder):
    return {path: path.is_file() and path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights(case, tmp_path):
    content, message = WEIGHTS[case]
    path = tmp_path / f"weights{case.partition(' ')[0]}"
    path.write_bytes(content)
    with refused(path, message):
        read_weights(path)


CHECKPOINTS = {  # file name and content → fragment of the error message about `ckpt`
    "model.safetensors": (
        tensors({"w": W}, bytes(4)),
        "is not the checkpoint of a run; if it has weights, start from them: model",
    ),
    "weights.pth": (saved({"a.w": W1}), "is not the checkpoint of a run; if it has weights, start from them: model.weights="),
    "other.ckpt": (
        saved({"state_dict": {"net.w": W1}, "hyper_parameters": {"model": "resnet", "lr": 0.1}}),
        "is not the checkpoint of a run",
    ),
    "list.ckpt": (saved([W1]), "is not the checkpoint of a run"),
    "pointer.ckpt": (LFS, "is a Git LFS pointer"),
    "module.ckpt": (
        saved(torch.nn.Sequential()),
        "contains an object (torch.nn.modules.container.Sequential), as after torch.save(model)",
    ),
    "text.ckpt": (b"text", "is not a readable checkpoint"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_files_that_are_not_checkpoints(name, tmp_path):
    content, message = CHECKPOINTS[name]
    (tmp_path / name).write_bytes(content)
    with refused(tmp_path / name, message) as caught:
        read_checkpoint(tmp_path / name)
    assert str(caught.value).startswith(f"ckpt={tmp_path / name} ")


def picture(kind, size=(8, 8), mode="RGB", **how):
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **how)
    return file.getvalue()


def png(*chunks):
    """Return a PNG of these chunks, valid or not."""
    body = b"".join(struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def head(width, height):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def texts():
    info = PngImagePlugin.PngInfo()
    for number in range(100):
        info.add_text(f"t{number}", "x" * 2**20, zip=True)
    return picture("PNG", pnginfo=info)


def tiff_claiming(width, height):
    data = picture("TIFF")
    for tag, value in ((256, width), (257, height)):
        start = data.index(struct.pack("<HHI", tag, 4, 1) + struct.pack("<I", 8))
        data = data[: start + 8] + struct.pack("<I", value) + data[start + 12 :]
    return data


def webp_claiming(side):
    """Return an animated WebP that declares a square canvas of this side."""
    data = picture("WEBP", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    start = data.index(b"VP8X") + 12
    return data[:start] + (side - 1).to_bytes(3, "little") * 2 + data[start + 6 :]


PIXELS = "more than 89,478,485 pixels"
BAD = "not a valid image, or corrupt"
PICTURES = {
    "empty.jpg": (b"", "is empty"),
    "text.png": (b"this is no picture", BAD),
    "cut.jpg": (picture("JPEG", (64, 64))[:-200], BAD),
    "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(pwned) (w) file\n", BAD),
    "icon.png": (picture("ICO"), BAD),
    "photoshop.png": (b"8BPS\0\1" + bytes(20), BAD),
    "large.png": (png(head(2**15, 2**15), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")), PIXELS),
    "huge.png": (png(head(2**31 - 1, 2**31 - 1), (b"IEND", b"")), PIXELS),
    "profile.png": (png(head(8, 8), (b"iCCP", b"a\0\0" + zlib.compress(bytes(2**28))), (b"IDAT", b"x"), (b"IEND", b"")), BAD),
    "texts.png": (texts(), BAD),
    "large.gif": (picture("GIF")[:6] + struct.pack("<HH", 65535, 65535) + picture("GIF")[10:], PIXELS),
    "large.tif": (tiff_claiming(2**16, 2**15), PIXELS),
    "large.webp": (webp_claiming(2**14 - 1), PIXELS),
    "large.bmp": (picture("BMP")[:18] + struct.pack("<ii", 2**15, 2**15) + picture("BMP")[26:], PIXELS),
    "large.ppm": (b"P6 99999 99999 255\n", PIXELS),
    "line.png": (picture("PNG", (4000, 8)), "one side is more than 100 times the other"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(name, tmp_path):
    content, message = PICTURES[name]
    path = tmp_path / name
    path.write_bytes(content)
    assert len(content) < 2**20
    with refused(path, message):
        read_image(path, 3)


def test_of_many_pages_one_is_read(tmp_path):
    pages = [Image.new("L", (8, 8), number) for number in range(20)]
    Image.new("L", (8, 8), 99).save(tmp_path / "pages.tif", save_all=True, append_images=pages)
    assert read_image(tmp_path / "pages.tif", 1).unique().tolist() == [99]


def test_a_file_that_is_too_large_is_not_opened(tmp_path):
    with (tmp_path / "hole.png").open("wb") as file:
        file.truncate(2**30 + 1)
    with refused(tmp_path / "hole.png", "larger than 1,024 MiB"):
        read_image(tmp_path / "hole.png", 3)


def idx(*dims, data=b""):
    return struct.pack(f">HBB{len(dims)}I", 0, 8, len(dims), *dims) + data


IDX = {
    "a bomb": gzip.compress(idx(60_000, 28, 28) + bytes(2**28)),
    "a false header": gzip.compress(idx(2**32 - 1, 2**32 - 1, 2**32 - 1)),
    "no header": gzip.compress(b"PK"),
    "cut short": gzip.compress(idx(4, 28, 28, data=bytes(4 * 784)))[:-20],
    "no gzip": b"1",
}


@pytest.mark.parametrize("case", IDX)
def test_idx(case, tmp_path):
    for images, labels in FILES.values():
        (tmp_path / f"{images}.gz").write_bytes(IDX[case])
        (tmp_path / f"{labels}.gz").write_bytes(gzip.compress(idx(4, data=bytes(4))))
    with refused(tmp_path / f"{FILES['train'][0]}.gz", "damaged, or not an IDX file"):
        fashion_mnist(str(tmp_path))


def write_run(folder, files=(), links=()):
    """Write a valid run folder; `files` and `links` replace parts of it."""
    plain = {
        "results.json": json.dumps({"state": "finished", "model": "googlenet", "image_size": 64, "val/top1_best": 0.5}),
        ".hydra/config.yaml": "seed: 1\nmodel: {name: googlenet, num_classes: 10, in_channels: 3, stem: small}\n",
        ".hydra/overrides.yaml": "[seed=1]",
    }
    for name, text in {**plain, **dict(files)}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for name, target in dict(links).items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)
    return folder


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)
)
RUNS = {  # runs that cannot be read: case → (file → content, fragment of the error message)
    "no JSON": ({"results.json": "{"}, "results.json is damaged"),
    "a list": ({"results.json": "[]"}, "it must be a mapping of keys"),
    "JSON without end": ({"results.json": "[" * 10**6}, "is damaged"),
    "a state of its own": ({"results.json": '{"state": "<script>"}'}, "state=<script> is unknown"),
    "a state that is no word": ({"results.json": '{"state": []}'}, "unknown"),
    "a reason that is not text": ({"results.json": '{"reason": NaN}'}, "reason=nan must be text"),
    "a time that is not text": ({"results.json": '{"started": 7}'}, "started=7 must be text"),
    "a number that is none": ({"results.json": '{"parameters": "many"}'}, "parameters=many must be a number"),
    "a number without end": ({"results.json": f'{{"parameters": 1{"0" * 4000}}}'}, "is damaged"),
    "no YAML": ({".hydra/config.yaml": "a: ]"}, "config.yaml is damaged"),
    "a tag": ({".hydra/config.yaml": "a: !!python/object/apply:os.system [touch pwned]"}, "config.yaml is damaged"),
    "a billion laughs": ({".hydra/config.yaml": LAUGHS}, "YAML aliases such as *a are not allowed"),
    "itself": ({".hydra/resolved.yaml": "a: &a [*a]"}, "YAML aliases such as *a are not allowed"),
    "YAML without end": ({".hydra/config.yaml": "[" * 10**5}, "nested more than 100 levels deep"),
    "words that are none": ({".hydra/overrides.yaml": "[{a: 1}]"}, "it must be a list of texts"),
    "a word alone": ({".hydra/overrides.yaml": "a"}, "it must be a list of texts"),
    "metrics that are none": (
        {"csv/version_0/metrics.csv": "epoch,val/top1\n0,high\n"},
        "row 2: val/top1=high must be a number",
    ),
    "bytes": ({"csv/version_0/metrics.csv": b"epoch,val/top1\n\xff\xfe\n"}, "metrics.csv, row 2: 1 cells, but 2 columns"),
}


@pytest.mark.parametrize("case", RUNS)
def test_runs(case, tmp_path):
    files, message = RUNS[case]
    run = write_run(tmp_path / "run", files)
    with refused(run, message):
        write_report([run], tmp_path / "report.html", pytest.fail)


LINKS = ("results.json", ".hydra/config.yaml", ".hydra/overrides.yaml", "per_class.csv")


@pytest.mark.parametrize("name", LINKS)
def test_a_link_out_of_a_run_is_not_followed(name, tmp_path):
    outside = tmp_path / "private"
    outside.write_text('{"state": "finished", "model": "private"}')
    run = write_run(tmp_path / "run", links={name: outside})
    with refused(run / name, "links to a file outside of the run folder"):
        write_report([run], tmp_path / "report.html", pytest.fail)


def test_folders_without_end_are_one_line(tmp_path):
    (tmp_path / "/".join("a" * 400)).mkdir(parents=True)
    with refused(tmp_path / "a", "folders are nested too deeply for runs"):
        write_report([tmp_path], tmp_path / "report.html", pytest.fail)


TABLES = {  # corrupt tables, which the page leaves out: case → (table, content, fragment of the warning)
    "a path upwards": (
        "worst",
        "picture,label,predicted,probability,probability_of_label,loss\n../private.png,a,b,1,0,9\n",
        "is not in the run folder",
    ),
    "a path from the root": (
        "worst",
        "picture,label,predicted,probability,probability_of_label,loss\n{root}/private.png,a,b,1,0,9\n",
        "is not in the run folder",
    ),
    "a link": (
        "worst",
        "picture,label,predicted,probability,probability_of_label,loss\nlink.png,a,b,1,0,9\n",
        "is not in the run folder",
    ),
    "a path with a NUL": ("worst", "picture,label,predicted,probability,probability_of_label,loss\nx\0.png,a,b,1,0,9\n", "is"),
    "no picture": (
        "worst",
        "picture,label,predicted,probability,probability_of_label,loss\nresults.json,a,b,1,0,9\n",
        "is not a readable image",
    ),
    "edges without numbers": (
        "calibration",
        "bin_low,bin_high,images,accuracy,confidence\n,,1,1,1\n",
        "bin_low and bin_high must be",
    ),
    "half a matrix": ("confusion", "class,a,b\na,1,2\n", "1 rows for 2 classes"),
    "digits without end": ("confusion", f"class,a,b\na,1,2\nb,{'9' * 5000},2\n", "is damaged"),
    "a quote without end": ("per_class", 'class,images\n"a,1', "is damaged"),
    "a column too few": ("per_class", "class,images\na,1\n", "column top1 is missing"),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_of_a_run(case, tmp_path):
    name, text, message = TABLES[case]
    (tmp_path / "private.png").write_bytes(picture("PNG"))
    run = write_run(tmp_path / "run", {f"{name}.csv": text.format(root=tmp_path)}, {"link.png": "../private.png"})
    warnings = []
    write_report([run], tmp_path / "report.html", warnings.append)
    assert len(warnings) == 1 and message in warnings[0] and "\n" not in warnings[0] and str(run) in warnings[0]
    assert "image/webp" not in (tmp_path / "report.html").read_text().partition('id="data"')[2].partition("</script>")[0]


def test_a_run_learns_nothing_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_PLACE", "medium")
    config = "seed: 1\nmodel: {name: googlenet, num_classes: 10, in_channels: 3, stem: '${oc.env:ZOO_PLACE}'}\n"
    warnings = []
    write_report([write_run(tmp_path / "run", {".hydra/config.yaml": config})], tmp_path / "report.html", warnings.append)
    assert len(warnings) == 1 and "refers to environment variables" in warnings[0]


MARKUP = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    '<a href="javascript:alert(1)">x</a>',
    "\u2028'\"`${alert(1)}",
    "<b>%{x}</b><!--",
    "{{script}}",
)


def test_names_that_are_markup_stay_names(tmp_path, visit):
    """The page shows markup in names of runs, models and classes, in overrides and in reasons as plain text."""
    names = [f"{name} {number}" for number, name in enumerate(MARKUP)]
    for number, name in enumerate(names):
        matrix = [[number + 1 if row == column else 1 for column in range(len(names))] for row in range(len(names))]
        text = io.StringIO()
        csv.writer(text).writerows([["class", *names], *([each, *row] for each, row in zip(names, matrix, strict=True))])
        curve = "epoch,val/top1,train/loss\n0,0.1,2\n1,0.5,1\n"
        results = {
            "state": "failed",
            "reason": name,
            "model": name,
            "swapped": name,
            "val/top1_best": 0.5 + number / 100,
            "parameters": 9 + number,
        }
        files = {
            "results.json": json.dumps(results),
            ".hydra/config.yaml": json.dumps({"seed": number, "note": name, name: name}),
            ".hydra/overrides.yaml": json.dumps([f"note={name}", f"{name}={name}"]),
            "confusion.csv": text.getvalue(),
            "csv/version_0/metrics.csv": curve,
        }
        write_run(tmp_path / "runs" / name.replace("/", "∕"), files)
    write_report([tmp_path / "runs"], tmp_path / "report.html", lambda line: None)
    page = visit(tmp_path / "report.html")  # fails on a dialog, a request or an error
    for name in names:
        run = name.replace("/", "∕")
        assert page.locator("#board tbody tr", has_text=run).count() == 1
    for chart in ("curves", "cost", "sweep"):
        page.locator(f"#{chart}-chart").scroll_into_view_if_needed()
        page.wait_for_selector(f"#{chart}-chart .scatterlayer path", state="attached")
    page.locator("#details").scroll_into_view_if_needed()
    page.wait_for_selector("#details .heatmaplayer image")
    shown = page.locator("#details .xtick text").all_text_contents()
    assert [text[:15].rstrip("…") for text in shown] == [name[:15] for name in names]
    assert page.locator("main img[src=x], main a, main b, svg a").count() == 0


ADDRESS = "is a URL, and URLs are not supported"
ONLINE = [*SMALL, "logger.wandb.offline=false"]
COMMANDS = {  # case → arguments of `inception-zoo`, environment, fragment of the error line
    "an address of weights": (
        ["predict", "http://127.0.0.1:9/best.ckpt", "image.png"],
        {},
        ADDRESS,
    ),
    "an address to convert": (
        ["convert", "https://127.0.0.1:9/a.pth", "out.safetensors"],
        {},
        ADDRESS,
    ),
    "an address of an image": (["predict", "evil.ckpt", "http://127.0.0.1:9/a.png"], {}, "no such file, folder or pattern"),
    "a checkpoint with code": (["predict", "evil.ckpt", "image.png"], {}, "evil.ckpt contains an object (posix.system)"),
    "code to convert": (["convert", "evil.ckpt", "out.safetensors"], {}, "evil.ckpt contains an object (posix.system)"),
    "code to export": (["export", "evil.ckpt", "out.onnx"], {}, "evil.ckpt contains an object (posix.system)"),
    "no ONNX": (["predict", "text.onnx", "image.png"], {}, "text.onnx is not a readable ONNX file"),
    "an address to train from": (["run", *SMALL, "model.weights=http://127.0.0.1:9/a.pth"], {}, "a.pth does not exist"),
    "an address to test": (
        ["run", *SMALL, "task=test", "ckpt=http://127.0.0.1:9/a.ckpt"],
        {},
        "ckpt=http://127.0.0.1:9/a.ckpt",
    ),
    "code to train from": (["run", *SMALL, "model.weights=evil.ckpt"], {}, "evil.ckpt contains an object (posix.system)"),
    "code to go on from": (["run", *SMALL, "ckpt=evil.ckpt"], {}, "ckpt=evil.ckpt contains an object (posix.system)"),
    "a key that is none": (
        ["run", *SMALL, "logger.wandb.offline=false"],
        {"WANDB_API_KEY": "short"},
        "logger.wandb.offline=false",
    ),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_commands(case, mistake, tmp_path):
    words, environment, message = COMMANDS[case]
    (tmp_path / "evil.ckpt").write_bytes(saved({"state_dict": {"w": torch.ones(1)}, "hyper_parameters": Evil()}))
    (tmp_path / "image.png").write_bytes(picture("PNG"))
    (tmp_path / "text.onnx").write_text("no ONNX")
    force = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    done = mistake(*words, main=cli, env={**force, **environment})
    said = lines(done.stderr)
    assert done.returncode == 2 and message in said[-1] and said[-1].startswith("error: "), done.stderr
    assert "Traceback" not in done.stdout + done.stderr and "Epoch 0" not in done.stdout
    assert not list(tmp_path.glob("out.*"))
