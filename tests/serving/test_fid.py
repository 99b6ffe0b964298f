"""FID, KID, Inception Score, precision and recall: equal to the libraries' own, and what is refused."""

import json
import logging
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch_fidelity
from cleanfid.resize import build_resizer
from PIL import Image
from pytorch_fid import fid_score, inception

from inception_zoo import ZooError, create_model, load_model, save_model
from inception_zoo.architecture.preprocessing import HALF, Preprocessing, Stated
from inception_zoo.bench.parity import PAIRS, peer_of
from inception_zoo.cli.main import main
from inception_zoo.data.fashion_mnist import fashion_mnist
from inception_zoo.serving.fid import Scores, Subsets, score
from inception_zoo.serving.fid_images import LIKE

FILE = "pt_inception-2015-12-05-6726825d.pth"
THEIR_NAMES = {
    "fid": "frechet_inception_distance",
    "kid": "kernel_inception_distance_mean",
    "is": "inception_score_mean",
    "precision": "precision",
    "recall": "recall",
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pytorch_fid", "ignore:Matrix is singular")
LAYERS = {64: "pool_3a", 192: "pool_5a", 2048: "pool"}  # by the libraries' names: numbers of features


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return a file as the one that pytorch-fid publishes, with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / FILE
    torch.save(peer_of(PAIRS["pytorch-fid inception_v3"]).weights(), path)
    return path


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Return a function of n: folders with n images of each half of Fashion-MNIST's test set, the second half darker."""
    images = fashion_mnist("data").test.images[:, 0].numpy()

    def write(count):
        folder = tmp_path_factory.mktemp("images")
        for half, start in (("a", 0), ("b", 5000)):
            (folder / half).mkdir()
            for i, pixels in enumerate(images[start : start + count]):
                darker = pixels // 2 if half == "b" else pixels
                Image.fromarray(darker).convert("RGB").save(folder / half / f"{i:05}.png")
        return str(folder / "a"), str(folder / "b")

    return write


@pytest.fixture(scope="module")
def few(halves):
    return halves(24)


def like_pytorch_fid(weights, pair, features):
    with patch.object(inception, "load_state_dict_from_url", lambda *_, **__: torch.load(weights)):
        return fid_score.calculate_fid_given_paths(pair, 20, "cpu", features, num_workers=0)


def like_torch_fidelity(weights, pair, features, subsets):
    layers = {f"feature_layer_{metric}": str(features) for metric in ("fid", "kid", "prc")}
    found = torch_fidelity.calculate_metrics(
        input1=pair[0], input2=pair[1], cuda=False, cache=False, verbose=False, batch_size=20, save_cpu_ram=True,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(weights), **layers,
        fid=True, kid=True, prc=True, isc=features == 2048, kid_subsets=subsets.number, kid_subset_size=subsets.size,
    )  # fmt: skip
    return {name: found[key] for name, key in THEIR_NAMES.items() if key in found}


def check_against_both(weights, pair, features, subsets):
    own = {"weights": weights, "layer": LAYERS[features]}
    assert score(*pair, **own).scores["fid"] == pytest.approx(like_pytorch_fid(weights, pair, features), rel=1e-4)
    theirs = like_torch_fidelity(weights, pair, features, subsets)
    ours = score(*pair, **own, like="torch-fidelity", metrics=list(theirs), subsets=subsets).scores
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_scores_are_those_of_both_libraries(weights, few):
    check_against_both(weights, few, 64, Subsets(5, 20))


@pytest.mark.slow
def test_the_inception_score_is_torch_fidelitys(weights, few):
    check_against_both(weights, few, 2048, Subsets(5, 20))


@pytest.mark.slow
def test_scores_of_a_thousand_images(weights, halves):
    check_against_both(weights, halves(1000), 192, Subsets(10, 500))


def test_every_library_resizes_in_its_own_way():
    image = torch.randint(256, (3, 41, 33), dtype=torch.uint8)
    theirs = build_resizer("clean")(image.permute(1, 2, 0).numpy())
    assert np.array_equal(LIKE["clean-fid"](image).numpy(), (theirs.transpose(2, 0, 1) - 128) / 128)
    found = [resize(image) for resize in LIKE.values()]
    assert all(each.shape == (3, 299, 299) and each.dtype == torch.float32 for each in found)
    assert min((a - b).abs().mean() for a, b in ((found[0], found[1]), (found[0], found[2]), (found[1], found[2]))) > 0.01


def test_statistics_travel_in_both_directions(weights, few, tmp_path, caplog):
    ours, theirs = tmp_path / "ours.npz", tmp_path / "theirs.npz"
    own = {"weights": weights, "layer": "pool_3a"}
    alone = score(few[1], **own, output=ours)
    assert (alone.scores, alone.images) == ({}, [24])
    expected = score(*few, **own)
    assert (expected.images, expected.like, expected.features) == ([24, 24], "pytorch-fid", 64)
    assert score(few[0], ours, **own) == expected
    with patch.object(inception, "load_state_dict_from_url", lambda *_, **__: torch.load(weights)):
        network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[64]])
        mean, covariance = fid_score.compute_statistics_of_path(few[1], network, 20, 64, "cpu", 0)
        found = fid_score.compute_statistics_of_path(str(ours), None, 20, 64, "cpu", 0)
    np.testing.assert_allclose(found[0], mean, rtol=1e-5)
    np.savez_compressed(theirs, mu=mean, sigma=covariance)
    caplog.set_level(logging.WARNING)
    read = score(few[0], theirs, **own)
    assert read.scores["fid"] == pytest.approx(expected.scores["fid"], rel=1e-4)
    assert read.images == [24, None]
    assert "theirs.npz does not state how it was computed; taken as: pytorch-fid" in caplog.text
    with pytest.raises(ZooError, match=r"ours.npz was computed with like=pytorch-fid, not clean-fid; compute it again"):
        score(few[0], ours, **own, like="clean-fid")
    with pytest.raises(ZooError, match=r"ours.npz has statistics of shape \(64,\), \(64, 64\), but there are 192 features"):
        score(few[0], ours, weights=weights, layer="pool_5a")
    with pytest.raises(ZooError, match=r"has statistics, which are enough for fid only; for kid give images"):
        score(few[0], ours, **own, metrics=["fid", "kid"])


# Other networks, and other images


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Return files of a small network of one's own, for grey images, and of FID's network with fewer channels."""
    folder = tmp_path_factory.mktemp("own")
    torch.manual_seed(0)
    model = create_model("googlenet", 10, 1, width=0.25, norm="batch", aux=False, stem="small")
    model.preprocessing = Preprocessing(28, (0.3,), (0.3,), 28)
    save_model(model, folder / "own.safetensors")
    fid = create_model("inception_v3_fid", 1008, width=0.0625)
    fid.preprocessing = Preprocessing(299, *HALF, 342)
    save_model(fid, folder / "fid.safetensors")
    grey = create_model("inception_v3_fid", 1008, 1, width=0.0625)
    grey.preprocessing = Preprocessing(299, (0.5,), (0.5,), 342)
    save_model(grey, folder / "grey.safetensors")
    return folder


@pytest.fixture
def call(own, monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr("sys.argv", ["inception-zoo", "fid", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()

    return run


def test_all_scores_of_a_network_of_ones_own(own, few, call):
    words = *few, "--weights", own / "own.safetensors", "--layer", "inception_5b", "--metrics", "fid,kid,precision,recall"
    code, out, _ = call(*words, "--subset-size", 20, "--subsets", 3)
    *lines, last = out.splitlines()
    assert code == 0 and [line.split()[0] for line in lines] == ["fid", "kid", "precision", "recall"]
    assert last == "24 against 24 images; googlenet, layer inception_5b (256 features); own preprocessing (28 px)"
    found = json.loads(call(*words, "--subset-size", 20, "--subsets", 3, "--json")[1])
    assert f"fid       {found['scores']['fid']:.6g}" == lines[0]
    assert (found["net"], found["images"]) == ("googlenet", [24, 24])


def test_sets_of_images_in_every_form(own, few):
    files = {"weights": own / "own.safetensors"}
    images = torch.stack([torch.from_numpy(np.array(Image.open(f"{few[0]}/{i:05}.png").convert("L"))) for i in range(24)])
    assert score(images[:, None], few[1], **files).scores == score(few[0], few[1], **files).scores
    data = "data=digits data.image_size=28"
    test, train = score(data, few[0], **files), score(f"{data} split=train", few[0], **files)
    assert test.images != train.images and test.scores != train.scores
    grey = score(images[:, None], few[1], weights=own / "fid.safetensors", layer="pool_3a")
    assert grey.scores == pytest.approx(score(*few, weights=own / "fid.safetensors", layer="pool_3a").scores)
    with pytest.raises(ZooError, match="split=tests is unknown; did you mean 'test'"):
        score(f"{data} split=tests", few[0], **files)
    with pytest.raises(ZooError, match=r"images are float32 \(24, 1, 28, 28\); the network reads uint8 \(N, 1, H, W\)"):
        score(images[:, None].float(), few[1], **files)


def test_the_inception_score_of_images_alone(own, few):
    found = score(few[0], weights=own / "fid.safetensors", metrics=["is"])
    assert isinstance(found, Scores) and 1 <= found.scores["is"] <= 1008
    assert score(few[0], weights=own / "fid.safetensors", metrics=["is"], seed=1).scores != found.scores


def test_statistics_of_another_preprocessing_or_network_are_refused(own, few, tmp_path):
    files = {"weights": own / "own.safetensors"}
    score(few[1], **files, output=tmp_path / "b.npz")
    with pytest.raises(ZooError, match=r"b.npz was computed with preprocessing=.*mean.*0.3.*, not .*0.9.*; compute it again"):
        score(few[0], tmp_path / "b.npz", **files, stated=Stated(mean=(0.9,), std=(0.1,)))
    model = load_model(own / "own.safetensors")
    model.plan = replace(model.plan, choices=replace(model.plan.choices, activation="gelu"))  # equal tensors
    save_model(model, tmp_path / "other.safetensors")
    with pytest.raises(ZooError, match=r"b.npz was computed with weights="):
        score(few[0], tmp_path / "b.npz", weights=tmp_path / "other.safetensors")


def test_an_error_in_the_second_set_does_not_lose_the_first(own, few, tmp_path):
    (tmp_path / "bad").mkdir()
    for i in range(3):
        (tmp_path / f"bad/{i}.png").write_bytes(b"\x89PNG no image")
    with pytest.raises(ZooError, match=r"0.png: not a valid image"):
        score(few[0], str(tmp_path / "bad"), weights=own / "own.safetensors", output=tmp_path / "a.npz")
    assert score(few[1], tmp_path / "a.npz", weights=own / "own.safetensors").images == [24, 24]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_have_no_statistics(count, own, tmp_path):
    images = torch.zeros(count, 1, 28, 28, dtype=torch.uint8)
    with pytest.raises(ZooError, match=f"fid needs at least 2 images, not {count}"):
        score(images, weights=own / "own.safetensors", output=tmp_path / "a.npz")
    assert not (tmp_path / "a.npz").exists()


def test_the_bias_of_few_images_is_logged_once(own, few, tmp_path, caplog):
    files = {"weights": own / "own.safetensors"}
    score(few[1], **files, output=tmp_path / "b.npz")
    caplog.set_level(logging.WARNING)
    score(few[0], tmp_path / "b.npz", **files)
    assert [record.message for record in caplog.records] == [
        "FID of 24 images has a large bias; compare it only with FIDs of as many images"
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no weights are given; give the file of FID's network, pt_inception-2015-12-05"),
        (["--weights", "fid.safetensors", "--metrics", "fid,kit"], "metric kit is unknown; did you mean 'kid'?"),
        (["--weights", "fid.safetensors", "--like", "clean"], "like=clean is unknown; did you mean 'clean-fid'?"),
        (
            ["--weights", "own.safetensors", "--like", "clean-fid"],
            "like=clean-fid is for FID's network; own.safetensors is googlenet",
        ),
        (["--weights", "fid.safetensors", "--metrics", "is"], "is: the Inception Score is that of the first set alone; leave"),
        (["--weights", "own.safetensors", "--metrics", "fid,is"], "is: the Inception Score is defined with FID's network"),
        (["--weights", "own.safetensors", "--subsets", "5"], "subsets are those of kid, which is not among the metrics"),
        (["--weights", "own.safetensors", "--seed", "5"], "the seed is that of kid and is, which are not among the metrics"),
        (["--weights", "grey.safetensors"], "grey.safetensors is inception_v3_fid for 1 image channels; FID's network reads 3"),
        (
            ["--weights", "fid.safetensors", "--metrics", "fid,is", "--layer", "mixed_7b"],
            "is: the Inception Score is that of the classif",
        ),
        (
            ["--weights", "fid.safetensors", "--mean", "0.5,0.5,0.5"],
            "inception_v3_fid reads images like pytorch-fid; leave --mean",
        ),
        (["--weights", "fid.safetensors", "--layer", "mixed_8b"], "layer mixed_8b is unknown; did you mean 'mixed_"),
        (
            ["--weights", "fid.safetensors", "--metrics", "kid"],
            "kid needs at least 1,000 images, not 24; give fewer images per subset",
        ),
        (["--weights", "fid.safetensors", "--output", "a.npy"], "a.npy: the name of a file of statistics must end in .npz"),
    ],
)
def test_what_is_refused(words, message, own, few, call, monkeypatch):
    monkeypatch.chdir(own)
    code, _, err = call(*few, *words)
    assert code == 2 and message in err, err


def test_one_set_alone_needs_a_file_for_its_statistics(own, few, call, tmp_path):
    code, _, err = call(few[0], "--weights", own / "fid.safetensors")
    assert code == 2 and "fid needs a second set of images; or name a file for the statistics of the first" in err
    code, _, err = call(few[0], tmp_path / "none.npz", "--weights", own / "fid.safetensors")
    assert code == 2 and "none.npz does not exist" in err
    (tmp_path / "bad.npz").write_bytes(b"PK\3\4nothing")
    code, _, err = call(few[0], tmp_path / "bad.npz", "--weights", own / "fid.safetensors")
    assert code == 2 and "bad.npz is not a file of statistics, with mu and sigma" in err
