"""The embedding head and metric learning: results by brute force, for any number of processes, and a job on real digits."""

import csv

import numpy as np
import pytest
import torch
from conftest import SMALL, run_folder
from torch.nn import functional as F

from inception_zoo import ZooError, create_model, load_model
from inception_zoo.config.allowed import TARGETS
from inception_zoo.runs.results import read_results
from inception_zoo.serving.features import Features
from inception_zoo.training.components import build_loss
from inception_zoo.training.embedding import Embeddings, best_threshold, draw_pairs, recall, verification
from inception_zoo.training.optimizers import parameter_groups


@pytest.fixture(scope="module")
def drawn():
    """Embeddings (301, 16) of seven overlapping classes, and an image alone in its class."""
    torch.manual_seed(0)
    labels = torch.cat([torch.randint(0, 7, (300,)), torch.tensor([7])])
    return F.normalize(torch.randn(8, 16)[labels] + 1.5 * torch.randn(301, 16)), labels


def test_recall_by_brute_force(drawn):
    embeddings, labels = drawn
    found = {1: [], 5: []}
    for query in range(300):
        others = sorted(
            (other for other in range(301) if other != query), key=lambda i: -float(embeddings[query] @ embeddings[i])
        )
        for k, hits in found.items():
            hits.append(any(labels[other] == labels[query] for other in others[:k]))
    assert recall(embeddings, labels) == {f"recall{k}": pytest.approx(np.mean(hits)) for k, hits in found.items()}
    assert 0.2 < np.mean(found[1]) < np.mean(found[5]) < 1


def test_recall_does_not_need_five_neighbours():
    embeddings = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 2.0]]))  # the third is nearer to the second
    assert recall(embeddings, torch.tensor([0, 0, 1])) == {"recall1": 0.0, "recall5": 1.0}


@pytest.mark.parametrize("counts", [[300], [1] * 5])
def test_without_pairs_the_results_are_nan(counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    assert np.isnan(verification(F.normalize(torch.randn(len(labels), 4)), labels))


def test_the_pairs_of_the_verification(drawn):
    labels = drawn[1].numpy()
    first, second = draw_pairs(labels)
    same = labels[first] == labels[second]
    assert (same == np.tile([True, False], 3000)).all() and (first != second).all()
    drawn_images = [set(np.concatenate([first[kind], second[kind]])) for kind in (same, ~same)]
    assert drawn_images == [set(range(300)), set(range(301))]  # the last image is alone in its class
    counts = np.bincount(labels[second[~same]], minlength=8) / 3000
    assert counts == pytest.approx(np.bincount(labels) / 301, abs=0.03)


def test_the_threshold_by_brute_force():
    draw = np.random.default_rng(0)
    same = np.arange(200) % 2 == 0
    similarity = draw.normal(same * 1.0, 1.0)
    best = max(((similarity >= each) == same).mean() for each in similarity)
    assert ((similarity >= best_threshold(similarity, same)) == same).mean() == best


def test_verification_of_separate_and_of_random_embeddings(drawn):
    labels = drawn[1]
    assert verification(F.one_hot(labels).float(), labels) == 1
    assert verification(F.normalize(torch.randn(301, 64)), labels) == pytest.approx(0.5, abs=0.05)
    assert 0.55 < verification(*drawn) < 0.99


def test_the_results_do_not_depend_on_processes_and_batches(drawn):
    embeddings, labels = drawn
    whole, parts = Embeddings(), Embeddings()
    whole.update(embeddings, labels, labels, 0)
    starts = [*range(0, 301, 64), *range(32, 301, 64)]  # the batches of two processes, one process after the other
    for start in starts:
        rows = slice(start, start + 32)
        parts.update(embeddings[rows], labels[rows], labels[rows], start)
    assert parts.compute() == whole.compute()


def test_views_of_an_image_are_averaged(drawn):
    embeddings, labels = drawn
    views = torch.stack([embeddings, embeddings.roll(1, 0)], 1)
    mean, one = Embeddings(), Embeddings()
    mean.update(views, labels, labels, 0)
    one.update(F.normalize(views.sum(1)), labels, labels, 0)
    assert mean.compute() == pytest.approx(one.compute())


@pytest.mark.parametrize("name", ["googlenet", "inception_resnet_v1_facenet"])
def test_the_embedding_head(name):
    model = create_model(name, 5, width=0.125, head="embedding", embedding=24).eval()
    images = torch.randn(3, 3, 96, 96)
    with torch.no_grad():
        read = model.forward_head(model.forward_features(images), pre_logits=True)
        assert read.shape == (3, 24) and torch.equal(model.fc(read), model(images))
        assert torch.equal(model.embed(images), F.normalize(read))
        assert torch.equal(Features(model, "embedding")(images), model.embed(images))
        model.reset_classifier(0)
        assert torch.equal(model(images), F.normalize(read))
    plain = create_model(name, 5, width=0.125, head="linear")
    assert not list(plain.embedding.parameters())
    with pytest.raises(ZooError, match="no embedding; create it with head='embedding'"):
        plain.embed(images)


def test_every_weight_is_trained():
    model = create_model("googlenet", 5, width=0.125, head="embedding")
    for decay in (1.0, 0.9):
        trained = [weight for group in parameter_groups(model, 0.1, decay) for weight in group["params"]]
        assert sorted(map(id, trained)) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("target", sorted(key for key in TARGETS if key.startswith("pytorch_metric_learning.losses.")))
def test_every_loss_on_the_allow_list_is_built(target):
    plan = create_model("googlenet", 0, width=0.125, head="embedding", embedding=16).plan
    loss = build_loss({"_target_": target}, plan, 10)
    assert loss(F.normalize(torch.randn(8, 16)), torch.arange(8) // 2).dim() == 0


@pytest.mark.parametrize("target", ["pytorch_metric_learning.distances.LpDistance", "torch.optim.SGD"])
def test_what_is_not_a_loss_is_refused_before_training(target):
    plan = create_model("googlenet", 0, width=0.125, head="embedding", embedding=16).plan
    with pytest.raises(ZooError, match="loss: "):
        build_loss({"_target_": target}, plan, 10)


FAST = [*SMALL, "model.norm=batch", "model.embedding=16", "logger=csv"]


@pytest.mark.parametrize("loss", ["arcface", "triplet"])
def test_a_job(zoo, tmp_path, loss):
    done = zoo(f"loss={loss}", *FAST)
    assert done.returncode == 0, done.stderr
    results = read_results(run_folder(tmp_path))
    assert {"test/recall1", "test/recall5", "test/verification", "val/recall1_best", "train/loss"} <= results.keys()
    assert results["monitor"] == "val/recall1" and "test/top1" not in results
    (metrics,) = tmp_path.glob("outputs/*/*/csv/**/metrics.csv")
    with metrics.open() as file:
        assert any(row["val/verification"] for row in csv.DictReader(file))
    state = torch.load(run_folder(tmp_path) / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert ("loss.W" in state) == (loss == "arcface")
    model = load_model(run_folder(tmp_path))
    assert model(torch.randn(2, 1, 32, 32)).norm(dim=1).tolist() == pytest.approx([1, 1])
    again = zoo("task=test", f"ckpt={run_folder(tmp_path)}", "trainer=smoke", "hydra.run.dir=again")
    assert again.returncode == 0, again.stderr
    tested = read_results(tmp_path / "again")
    assert {key: tested[key] for key in results if key.startswith("test/")} == {
        key: value for key, value in results.items() if key.startswith("test/")
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "loss=arcface label_smoothing=0.1",
            "label_smoothing=0.1 cannot be combined with a metric-learning loss",
        ),
        ("loss=arcface aux_weight=0.3", "aux_weight=0.3 cannot be combined with a metric-learning loss"),
        ("loss=triplet augmentation.mixup=0.2", "augmentation.mixup=0.2 cannot be combined with a metric-learning loss"),
        ("loss=arcface model.num_classes=10", "model.num_classes=10 cannot be combined with loss, which needs embeddings"),
        ("model.num_classes=0", "model.num_classes=0 needs a metric-learning loss, such as loss=arcface"),
        ("model.embedding=64", "model.embedding=64 needs head=embedding"),
        ("loss=arcface loss.margin=a", "error: loss: "),
        (
            "loss=arcface callbacks.best.monitor=val/top1",
            ".monitor=val/top1 is not logged with a metric-learning loss",
        ),
        (
            "callbacks.best.monitor=val/recall1",
            ".monitor=val/recall1 is not logged with one label for each image",
        ),
        ("loss=arcface model.embedding=true", "model.embedding=true must be a whole number above 0"),
        ("loss=arcface +loss.size=3", "got an unexpected keyword argument 'size'"),
        ("loss=cosface", "loss=cosface is unknown; did you mean 'arcface'?"),
    ],
)
def test_mistakes(mistake, words, message):
    done = mistake(*words.split(), "data=digits", "logger=none", "trainer=smoke")
    assert done.returncode == 2
    assert message in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
