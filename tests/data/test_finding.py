"""Search for images: all commands use the files that Pillow reads, and count and name the others."""

import logging
import os
import unicodedata
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, features

from inception_zoo import ZooError
from inception_zoo.data import finding
from inception_zoo.data.finding import images_below
from inception_zoo.data.imagefolder import imagefolder
from inception_zoo.data.layout import count_classes
from inception_zoo.data.optimize import optimize_folder
from inception_zoo.data.pictures import is_picture, open_picture
from inception_zoo.data.reading import read_image
from inception_zoo.data.stream import stream
from inception_zoo.serving.images import find_images
from inception_zoo.training.checkpoints import check_classes

# file name: Pillow's format. The last ones have unusual suffixes or none: their content decides.
PICTURES = {
    **dict.fromkeys(("a.jpg", "b.JPEG", "c.jpe", "d.jfif"), "JPEG"),
    **{"e.png": "PNG", "f.apng": "PNG", "g.bmp": "BMP", "h.dib": "DIB", "i.gif": "GIF", "j.webp": "WEBP", "k.tif": "TIFF"},
    **{"l.ppm": "PPM", "m.pgm": "PPM", "n.pbm": "PPM", "o.tga": "TGA", "p.jp2": "JPEG2000", "q.mpo": "MPO", "r.pcx": "PCX"},
    **{"s.sgi": "SGI", "t.dds": "DDS", "u.j2k": "JPEG2000", "v.xbm": "XBM"},
    **{"t.icb": "TGA", "t.vda": "TGA", "no suffix": "JPEG", "another": "MPO"},
}
if features.check("avif"):
    PICTURES |= {"w.avif": "AVIF", "w.avifs": "AVIF"}
OTHERS = {
    "labels.csv": b"a,b\n1,2\n",
    "x.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
    "y.svg": b"<svg/>",
    "z.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n",
    "z.npy": b"\x93NUMPY\1\0" + bytes(100),
    "zeros": bytes(1000),
    "zero bytes": b"",
    "notes.txt": b"P3 10 20 30 40\n",
}
# Images whose suffix does not say so, which another program left, or reads: Pillow's format
UNNAMED = {
    **dict.fromkeys(("0.png~", "0.jpg.bak", "0.jpg.part", "0.thm", "photo.2024", "0.psd"), "JPEG"),
    **dict.fromkeys(("0.nef", "0.dng", "0.CR2"), "TIFF"),
}
HIDDEN = (".DS_Store", "._a.jpg", "Thumbs.db", "desktop.ini")
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(path, kind="PNG", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    mode = {"m.pgm": "L", "n.pbm": "1", "v.xbm": "1"}.get(path.name, "RGB")
    Image.fromarray(pixels).convert(mode).save(path, kind)


def tree(root, *classes, splits=("train", "val")):
    for split in splits:
        for name in classes:
            picture(root / split / name / "0.png")
    return root


@pytest.fixture
def mixed(tmp_path):
    """Create a data set whose class `cat` has every kind of file, in two folders."""
    root = tree(tmp_path / "data", "cat", "dog")
    for number, (name, kind) in enumerate(PICTURES.items()):
        picture(root / "train/cat" / ("more" if number % 2 else "") / name, kind)
    for name, content in OTHERS.items():
        (root / "train/cat" / name).write_bytes(content)
    for name, kind in UNNAMED.items():
        picture(root / "train/cat" / name, kind)
    for name in HIDDEN:
        (root / "train/cat" / name).write_bytes(b"hidden")
    return root


def names(paths):
    return sorted(os.path.basename(path) for path in paths)  # noqa: PTH119


def message(call, *arguments):
    with pytest.raises(ZooError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_training_reads_what_pillow_reads_and_names_the_rest(mixed, caplog):
    caplog.set_level(logging.INFO, "inception_zoo.data.finding")
    data = imagefolder(str(mixed))
    assert names(data.train.paths[data.train.labels == 0]) == sorted(["0.png", *PICTURES])
    for path in data.train.paths:
        for channels in (1, 3):
            assert read_image(data.train.root / str(path), channels).shape == (channels, 12, 10)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    left_out = sorted([*OTHERS, *UNNAMED])
    expected = ", ".join(f"train/cat/{name}" for name in left_out[: finding.NAMED])
    assert warning == f"{mixed}: left out {len(left_out)} files that are not images in a supported format: {expected}, …"
    assert f"{mixed}: images without a suffix, known by their content: 2" in caplog.messages


def test_prediction_and_calibration_find_the_same_files(mixed, caplog):
    found = find_images([str(mixed / "train")])
    assert found == [mixed / "train" / str(path) for path in imagefolder(str(mixed)).train.paths]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings[0].startswith(
        f"{mixed}/train: left out {len(OTHERS) + len(UNNAMED)} files that are not images in a supported format: cat/"
    )


def test_chunks_have_the_same_images(mixed, tmp_path):
    source = imagefolder(str(mixed))
    optimize_folder(source, tmp_path / "chunks", workers=1)
    images = stream(str(tmp_path / "chunks")).train.dataset(3, lambda read: read())
    assert len(images) == len(source.train)
    found = sorted(image.flatten().tolist() for image, _ in (images[row] for row in range(len(images))))
    assert found == sorted(read_image(source.train.root / str(path), 3).flatten().tolist() for path in source.train.paths)


def test_many_names_are_cut_and_stay_on_one_line(tmp_path, caplog):
    root = tree(tmp_path / "data", "cat")
    for number in range(1200):
        (root / f"train/cat/{number:04}.txt").write_text("1 2 3")
    (root / "train/cat/0000\n\x1b.txt").write_text("")
    imagefolder(str(root))
    warning = caplog.records[0].getMessage()
    assert "left out 1,201 files" in warning and warning.endswith("train/cat/0008.txt, …")
    assert r"0000\n\x1b.txt" in warning and warning.isprintable()


def test_only_the_first_process_logs(tmp_path, caplog, monkeypatch):
    root = tree(tmp_path / "data", "cat")
    (root / "val/cat/a.txt").write_text("")
    monkeypatch.setattr(finding, "is_first", lambda: False)
    imagefolder(str(root))
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]
    monkeypatch.undo()
    find_images([str(root)])
    assert caplog.records[-1].getMessage().endswith("left out 1 file that is not an image in a supported format: val/cat/a.txt")


def test_a_folder_of_other_files_is_an_error_that_names_them(tmp_path):
    root = tree(tmp_path / "data", "cat")
    (root / "train/dog").mkdir()
    (root / "train/dog/a.heic").write_bytes(OTHERS["x.heic"])
    only = "only 1 file that is not an image in a supported format: a.heic"
    assert message(imagefolder, str(root)) == f"{root}/train/dog has no images ({only}); add some, or delete the folder"
    assert message(find_images, [f"{root}/train/dog"]) == f"{root}/train/dog: there is no image in this folder, {only}"


def test_a_damaged_image_is_an_error_with_any_suffix(tmp_path):
    root = tree(tmp_path / "data", "cat")
    for name in ("whole", "cut"):
        picture(root / "train/cat" / name)
    cut = root / "train/cat/cut"
    cut.write_bytes(cut.read_bytes()[:-100])
    assert imagefolder(str(root)).bad == [f"{cut}: not a valid image, or corrupt (OSError)"]


def test_a_bomb_without_a_suffix_is_an_image(tmp_path, monkeypatch):
    for name in ("bomb", "bomb.psd", "bomb.nef"):
        picture(tmp_path / name, "TIFF")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # the picture has 120 pixels, more than twice as many
    assert [is_picture(str(tmp_path / name)) for name in ("bomb", "bomb.psd", "bomb.nef")] == [True, False, False]


def test_a_pipe_is_not_waited_for(tmp_path):
    for name in ("pipe", "pipe.jpg"):
        os.mkfifo(tmp_path / name)
    left_out = []
    assert [entry.name for entry in images_below(tmp_path, left_out)] == ["pipe.jpg"]  # reading reports it
    assert left_out == [str(tmp_path / "pipe")]


def test_links_and_hidden_folders(tmp_path):
    picture(tmp_path / "elsewhere/a.png")
    picture(tmp_path / "data/.thumbs/b.png")
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    assert find_images([str(tmp_path / "data")]) == [tmp_path / "data/link/a.png"]
    assert ".thumbs is a hidden folder" in message(images_below, tmp_path / "data", [], True)
    (tmp_path / "elsewhere/up").symlink_to(tmp_path)
    assert "up links to a folder that contains it" in message(find_images, [str(tmp_path / "data")])


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    picture(tmp_path / "data/a.png")
    scandir = os.scandir

    def refused(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    (tmp_path / "data/closed").mkdir()
    monkeypatch.setattr(os, "scandir", refused)
    assert message(find_images, [str(tmp_path / "data")]) == f"{tmp_path}/data/closed cannot be read: Permission denied"


# Several frames


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG", "MPO"])
def test_the_first_frame_is_read(kind, tmp_path):
    frames = [Image.new("RGB", (8, 6), color) for color in ("white", "black")]
    frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a") as image:
        assert image.n_frames == 2
    assert is_picture(str(tmp_path / "a")) and (read_image(tmp_path / "a", 3) == 255).all()
    assert open_picture(BytesIO((tmp_path / "a").read_bytes()), "L", small=True).getextrema() == (255, 255)


# Classes


@pytest.mark.parametrize("forms", [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_a_class_is_the_same_in_every_unicode_form(forms, tmp_path):
    root = tmp_path / "data"
    for split, form in zip(("train", "val"), forms, strict=True):
        tree(root, form, "caff", "dog", splits=[split])
    data = imagefolder(str(root))
    assert data.classes == ["caff", NFC, "dog"] and count_classes(str(root)) == 3  # the labels are the same, too
    for split in (data.train, data.val):
        assert [read_image(split.root / str(path), 3).shape[0] for path in split.paths] == [3, 3, 3]
        assert split.labels.tolist() == [0, 1, 2]
    check_classes(tmp_path / "a.ckpt", ["caff", NFD, "dog"], data.classes)
    assert "label 1 is 'cafe', but in the data it is" in message(check_classes, tmp_path, ["caff", "cafe", "dog"], data.classes)


def test_two_folders_of_one_class_are_refused(tmp_path):
    root = tree(tmp_path / "data", NFC, NFD)
    assert f"another folder has the name '{NFC}'" in message(imagefolder, str(root))


def test_a_class_with_other_capitals_is_named(tmp_path):
    root = tmp_path / "data"
    tree(root, "Cat", "dog", splits=["train"])
    tree(root, "cat", "dog", splits=["val"])
    assert message(imagefolder, str(root)) == (
        f"data.root={root}: val has no images of class 'Cat', which train has, only of 'cat'"
    )
    tree(root, "a", "A", "cat", splits=["train"])  # letters of both cases, for example
    tree(root, "a", "A", "Cat", splits=["val"])
    assert imagefolder(str(root)).classes == ["A", "Cat", "a", "cat", "dog"]


@pytest.mark.parametrize(("count", "hint"), [(10, ", and model.num_classes=10 for a larger network"), (2, "")])
def test_another_number_of_classes_is_refused(count, hint, tmp_path):
    source = imagefolder(str(tree(tmp_path / "data", "a", "b", "c")))
    expected = f"data.num_classes={count}: imagefolder has 3 classes; set data.num_classes=3{hint}"
    assert message(source.check, count, 3) == expected
    source.check(3, 3)
    source.only([0, 2]).check(2, 3)
    assert source.only([2, 0]).train.labels.dtype == torch.int64
