"""The views that `inception-zoo data show` draws are those that training sees in successive epochs."""

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.utils import make_grid

from inception_zoo.data import Augmentation, ImageData, Images, Source, show
from inception_zoo.data.optimize import optimize_folder
from inception_zoo.data.show import training_views
from inception_zoo.data.source import Files
from inception_zoo.data.stream import stream

COUNT, EPOCHS, DRAWS = 20, 10, 4
CLASSES = [f"image {number}" for number in range(COUNT)]  # a class for each image: its label is its row

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:Your `Iter", "ignore:Trying to infer")


def in_memory(folder):
    pixels = torch.randint(0, 256, (COUNT, 3, 24, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = Images(pixels, torch.arange(COUNT))
    return Source("memory", images, images, CLASSES, images)


def in_files(folder):
    for number, image in enumerate(in_memory(folder).train.images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    files = Files(folder, np.array([f"{number}.png" for number in range(COUNT)]), torch.arange(COUNT))
    return Source("files", files, files, CLASSES, files)


def in_chunks(folder):
    (folder / "files").mkdir()
    optimize_folder(in_files(folder / "files"), folder / "chunks", "8KB", workers=1)
    return stream(str(folder / "chunks"))


def data_of(source, folder, **changes):
    augmentation = {key: changes.pop(key) for key in ("mixup", "cutmix") if key in changes}
    options = {"num_classes": COUNT, "in_channels": 3, "image_size": 24, "batch_size": 5, "split": {"val": 1}, "workers": 0}
    options |= {"mean": [0.5] * 3, "std": [0.25] * 3, "seed": 3, **changes}
    transforms = {"flip": v2.RandomHorizontalFlip(), "colour": v2.ColorJitter(0.3, 0.3)}
    return ImageData(
        lambda: source(folder), augmentation=Augmentation(v2.RandomResizedCrop(24), transforms, **augmentation), **options
    )


class Recorder(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.epochs = torch.nn.Linear(1, 1), [[] for _ in range(EPOCHS)]

    def training_step(self, batch, index):
        self.epochs[self.current_epoch] += zip(*batch, strict=True)
        return self.layer(torch.rand(2, 1)).mean()

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(data):
    """Return the (image, label or soft labels) pairs of each epoch of a real training."""
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    model = Recorder()
    L.Trainer(accelerator="cpu", max_epochs=EPOCHS, limit_val_batches=0, **quiet).fit(model, data)
    return model.epochs


def shown(data, rows):
    """Return the shown views of each row by its label."""
    data.setup()
    views = {row: [] for row in rows}
    for row, view in training_views(data, rows, DRAWS):
        views[row].append(view)
    ((_, labels),) = data.batches("train", [rows])
    return dict(zip(labels.tolist(), views.values(), strict=True))


@pytest.fixture
def both(tmp_path):
    """Return a function that returns, for each row, the shown views and what each epoch of a training saw."""

    def compared(source, rows, **changes):
        folders = tmp_path / "shown", tmp_path / "trained"
        for folder in folders:
            folder.mkdir()
        views = shown(data_of(source, folders[0], **changes), rows)
        epochs = trained(data_of(source, folders[1], **changes))
        return [(views[n], [[pair for pair in epoch if own(pair[1], n)] for epoch in epochs]) for n in views]

    return compared


def own(label, number):
    """Return True if an image with this label, or with these soft labels, shows (also) the image of class `number`."""
    return label == number if label.dim() == 0 else label[number] > 0


@pytest.mark.parametrize("progressive", [None, {0: 12, 2: 24}])
@pytest.mark.parametrize(
    ("source", "batch_size"), [(in_memory, 5), (in_memory, 6), (in_files, 5), (in_files, 6), (in_chunks, 5)]
)
def test_the_views_are_those_of_training(source, progressive, batch_size, both):
    left_out = 0
    for views, epochs in both(source, [4, 16, 0, 9, 11, 13], progressive=progressive, batch_size=batch_size):
        left_out += EPOCHS - sum(map(len, epochs))
        expected = [image for epoch in epochs for image, _ in epoch][:DRAWS]
        assert len(views) == DRAWS and all(map(torch.equal, views, expected))
        assert all(len(view.unique()) > 1 and not torch.equal(view, views[0]) for view in views[1:])
    assert (left_out > 0) == (batch_size == 6)  # each epoch leaves out two of the 20 images then


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("source", [in_memory, in_files])
def test_mixed_views_are_those_of_training(source, kind, both):
    for views, epochs in both(source, list(range(10)), **{kind: 1}):  # an integer, as from the command line
        for view, epoch in zip(views, epochs, strict=False):
            assert sum(torch.equal(view, image) for image, _ in epoch) == 1


@pytest.mark.parametrize("source", [in_memory, in_files, in_chunks])
def test_the_columns_of_the_picture_differ(source, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    drawn = []
    monkeypatch.setattr(show, "make_grid", lambda pixels, **options: drawn.append(pixels) or make_grid(pixels, **options))
    data = data_of(source, tmp_path / "data", batch_size=500, progressive={0: 12, 2: 24})  # more than there are images
    show.contact_sheet(data, tmp_path / "sheet.png", images=3, draws=4)
    rows = drawn[0].unflatten(0, (3, 5))
    for row in rows.flatten(2):
        assert len(row.unique(dim=0)) == 5
    assert (rows[:, 1:3, :, ::2, ::2] == rows[:, 1:3, :, 1::2, 1::2]).all()  # of 12 pixels, enlarged
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 300 and sheet.getextrema()[0][1] > 100
