"""Images of a table that are in an archive or an object store: the same data set as in a folder, and errors of one line."""

import csv
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inception_zoo import ZooError
from inception_zoo.data import copies
from inception_zoo.data.copies import local_folder
from inception_zoo.data.table import table


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """Return a folder of twelve images in two folders, and a table of them."""
    for number in range(12):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number * 20, np.uint8)).save(path)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = [(f"{'ab'[number % 2]}/{number}.png", "ab"[number % 2]) for number in range(12)]
        csv.writer(file).writerows([("path", "label"), *rows])
    return tmp_path / "photos"


def packed(folder, kind):
    if kind == "store":
        return "s3://bucket/photos"
    path = folder.parent / f"photos.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for image in sorted(folder.rglob("*.png")):
                file.write(image, image.relative_to(folder))
    else:
        with tarfile.open(path, "w:gz" if kind == "tgz" else "w") as file:
            file.add(folder, ".")  # names begin with ./
    return str(path)


@pytest.fixture
def store(folder, monkeypatch):
    """Replace the connection to S3 by obstore's own store of a local folder."""
    from obstore.store import LocalStore

    monkeypatch.setattr(copies, "_store", lambda address: LocalStore(folder))


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz", "store"])
def test_copies_are_the_same_data_set_as_the_folder(folder, store, kind):
    labels = str(folder.parent / "labels.csv")
    expected, images = table(labels, images=str(folder)).train, packed(folder, kind)
    found = table(labels, images=images).train
    assert found.root != folder and found.paths.tolist() == expected.paths.tolist()
    one, other = (part.dataset(1, lambda read: read()) for part in (found, expected))
    assert all(torch.equal(one[row][0], other[row][0]) for row in range(12))
    (found.root / "a/0.png").unlink()
    (found.root / "a/2.png").write_bytes(b"")  # as after a power failure
    before = (found.root / "b/1.png").stat().st_mtime_ns
    assert len(table(labels, images=images).train) == 12 and (found.root / "a/0.png").is_file()
    assert (found.root / "b/1.png").stat().st_mtime_ns == before  # what is in the cache is not copied again
    assert not list(found.root.parent.rglob("*.partial"))


def test_only_the_listed_files_are_copied_and_none_outside_of_the_cache(folder, tmp_path, cache):
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as file:
        for name in ("../../out.png", "/absolute.png", "a/1.png", "a/other.png"):
            file.writestr(name, b"content")
    copied = local_folder(str(tmp_path / "odd.zip"), ["../../out.png", "/absolute.png", "a/1.png", "a/none.png"])
    assert [path.relative_to(copied).as_posix() for path in copied.rglob("*") if path.is_file()] == ["a/1.png"]
    assert not [*tmp_path.rglob("out.png"), *tmp_path.rglob("absolute.png")] and not Path("/absolute.png").exists()
    link = tarfile.TarInfo("a/0.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "odd.tar", "w") as file:
        file.addfile(link)
        file.addfile(tarfile.TarInfo("pipe"), BytesIO())
    assert not [path for path in local_folder(str(tmp_path / "odd.tar"), ["a/0.png"]).rglob("*") if path.is_file()]
    with pytest.raises(ZooError, match=r"row 2: no such file in .*odd.tar.*: 'a/0.png'"):
        (tmp_path / "one.csv").write_text("path,label\na/0.png,a\n")
        table(str(tmp_path / "one.csv"), images=str(tmp_path / "odd.tar"))


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_a_damaged_archive_is_one_line(folder, tmp_path, kind):
    whole = packed(folder, kind)
    content = (tmp_path / f"photos.{kind}").read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(content[: len(content) // 2])
    # a tar that ends after a member is whole for `tarfile`; its missing images are reported by their rows
    with pytest.raises(ZooError, match=rf"^[^\n]*(cut.{kind}: cannot be copied to |no such file in .*cut.{kind})[^\n]+$"):
        table(str(tmp_path / "labels.csv"), images=str(tmp_path / f"cut.{kind}"))
    broken = bytearray(content)
    broken[60 : len(content) // 2] = bytes(len(content) // 2 - 60)
    (tmp_path / f"cut.{kind}").write_bytes(broken)
    with pytest.raises(ZooError, match=rf"^[^\n]*cut.{kind}[^\n]+$"):
        table(str(tmp_path / "labels.csv"), images=str(tmp_path / f"cut.{kind}"))
    again = local_folder(whole, ["a/0.png", "b/11.png"])
    assert (again / "b/11.png").is_file()


def test_addresses(folder, tmp_path, monkeypatch):
    (tmp_path / "photos.7z").write_bytes(b"7z")
    with pytest.raises(ZooError, match=r"photos.7z: must be a folder, or an archive"):
        local_folder(str(tmp_path / "photos.7z"), ["a/0.png"])
    with pytest.raises(ZooError, match=r"^data.source.images=ftp://host/x: must be a folder, an archive .*or begin with s3://"):
        local_folder("ftp://host/x", ["a/0.png"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # nothing listens there
    monkeypatch.setattr(copies, "RETRY", {"max_retries": 0})
    with pytest.raises(ZooError, match=r"^data.source.images=s3://bucket/x: cannot be copied to .*: a/0.png: [^\n]+$"):
        local_folder("s3://bucket/x", ["a/0.png"])
    assert local_folder(str(tmp_path / "none.zip"), ["a/0.png"]) == tmp_path / "none.zip"
