"""The Hub: folders that timm and this package load, upload and download against a stand-in of the Hub's HTTP API."""

import json
from dataclasses import replace
from math import floor

import pytest
import torch
from conftest import SMALL, run_folder
from tools.hub_server import serving

from inception_zoo import Pretrained, ZooError, create_model, export_weights, load_model, load_weights, save_model
from inception_zoo.architecture.card import Provenance
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.runs.results import read_results
from inception_zoo.weights.sources import hub_name, is_name

TOKEN = "hf_secret"
# huggingface_hub calls httpx in a way that is deprecated
UPLOADS = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
PREPROCESSING = Preprocessing(96, (0.5, 0.4, 0.3), (0.25, 0.5, 0.5), 110, "bicubic")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Serve a hub; this process and its children use it, with an empty cache."""
    from huggingface_hub import constants

    with serving() as (hub, url):
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")  # the server has the older protocol, LFS
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf/hub"))
        yield hub


def trained(name, **choices):
    """Return a network of three classes with other BatchNorm statistics than the initial ones."""
    torch.manual_seed(0)
    model = create_model(name, 3, **choices).eval()
    for key, value in model.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    model.classes, model.preprocessing = ["ant", "bee", "wasp"], PREPROCESSING
    return model


def logits(model, channels=3):
    torch.manual_seed(1)
    with torch.no_grad():
        return model(torch.rand(2, channels, 96, 96))


def facts(model):
    return model.plan.net.name, model.classes, model.preprocessing, model.plan.swapped


@pytest.mark.parametrize(
    ("name", "channels"), [("inception_v3", 3), ("inception_v3", 1), ("inception_v4", 3), ("xception_timm", 3)]
)
def test_timm_loads_the_folder(tmp_path, name, channels):
    import timm

    pixels = Preprocessing(96, (0.5,) * channels, (0.25,) * channels, 110, "bicubic")
    ours = trained(name, in_channels=channels)
    ours.preprocessing = pixels
    assert ours.save_pretrained(tmp_path / "folder") == "timm"
    theirs = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True).eval()
    assert torch.allclose(logits(theirs, channels), logits(ours, channels), rtol=1e-4, atol=1e-6)
    data = timm.data.resolve_model_data_config(theirs)
    assert data["input_size"] == (channels, 96, 96) and data["interpolation"] == "bicubic"
    assert list(data["mean"]) == [0.5] * channels and round(96 / data["crop_pct"]) == 110
    assert theirs.pretrained_cfg["label_names"] == ["ant", "bee", "wasp"]
    again = Pretrained.from_pretrained(tmp_path / "folder")
    assert facts(again) == facts(ours) and torch.equal(logits(again, channels), logits(ours, channels))


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("googlenet", {"width": 0.25}),  # not in timm
        ("inception_v3", {"width": 0.25}),  # other shapes than timm's
        ("inception_v3", {"blocks": {"mixed_6b": "residual"}, "width": 0.25}),
        ("inception_v3", {"activation": "silu", "width": 0.25}),
        ("inception_v3_slim", {"width": 0.25}),  # timm's network counts padded zeros
    ],
)
def test_other_networks_are_in_our_layout(tmp_path, name, choices):
    ours = trained(name, **choices)
    assert ours.save_pretrained(tmp_path) == "native"
    assert not (tmp_path / "config.json").exists() and "library_name: inception_zoo" in (tmp_path / "README.md").read_text()
    again = Pretrained.from_pretrained(tmp_path)
    assert facts(again) == facts(ours) and torch.equal(logits(again), logits(ours))


def test_a_network_without_preprocessing_is_not_written(tmp_path):
    model = create_model("googlenet", 3, width=0.125)
    with pytest.raises(ZooError, match="states no preprocessing, which users need; give --mean and --std"):
        model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_run_travels_to_the_hub_and_back(zoo, cli, hub, tmp_path):
    assert zoo("model=inception_v3", *SMALL, "data.image_size=96", "model.stem=imagenet", "logger=none").returncode == 0
    run = run_folder(tmp_path)
    done = cli("convert", run, "folder", "--to", "hub", "--licence", "mit", "--push", "clinic/digits", "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("http://127.0.0.1") and hub.private["clinic/digits"]
    assert "not in timm's layout: timm's inception_v3 has weights of other shapes" in done.stderr
    _, files = hub.files("clinic/digits", "main")
    assert set(files) == {"README.md", "model.safetensors", "network.png"}
    assert all((tmp_path / "folder" / name).read_bytes() == content for name, content in files.items())
    card, results = files["README.md"].decode(), read_results(run)
    assert card.startswith("---\nlicense: mit\n") and 'load_model("hf:clinic/digits")' in card and "Data: `digits`" in card
    for key in ("top1", "ece"):
        assert f"| {key} | {results[f'test/{key}']:.4f} |" in card
    assert TOKEN not in card + done.stdout + done.stderr
    loaded, ours = load_model("hf:clinic/digits"), load_model(run)
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert facts(loaded) == facts(ours)
    assert loaded.provenance.source == "hf:clinic/digits" and loaded.provenance.url.endswith(
        hub.files("clinic/digits", "main")[0]
    )
    words = ["model=inception_v3", *SMALL, "data.image_size=96", "model.stem=imagenet", "logger=none"]
    tuned = zoo(*words, "model.weights=hf:clinic/digits", "model.aux=false", "hydra.run.dir=tuned")
    assert tuned.returncode == 0, tuned.stderr
    for words in (["predict", "hf:clinic/digits", run / "worst"], ["describe", "inception_v3", "weights=hf:clinic/digits"]):
        done = cli(*words)
        assert done.returncode == 0 and (words[0] == "predict" or "0, 1, 2, 3" in done.stdout), done.stderr


@UPLOADS
def test_revisions_and_weights_of_timm(hub, tmp_path):
    import timm

    first, second = trained("googlenet", width=0.125), trained("googlenet", width=0.25)
    old = first.push_to_hub("me/net").rpartition("/")[2]
    second.push_to_hub("me/net")
    assert load_model(f"hf:me/net@{old}").plan.choices.width == 0.125
    assert Pretrained.from_pretrained("me/net").plan.choices.width == 0.25
    assert Pretrained.from_pretrained("me/net", revision=old).plan.choices.width == 0.125

    theirs = timm.create_model("inception_v3", num_classes=3).eval()
    config = {"label_names": ["ant", "bee", "wasp"], "pretrained_cfg": {"license": "mit"}}
    timm.models.save_for_hf(theirs, tmp_path / "timm", config, safe_serialization=True)
    hub.repos["me/timm"] = {"1" * 40: {path.name: path.read_bytes() for path in (tmp_path / "timm").iterdir()}}
    ours = load_model("hf:me/timm")
    assert torch.allclose(logits(ours), logits(theirs), rtol=1e-4, atol=1e-6)
    assert ours.classes == ["ant", "bee", "wasp"] and ours.provenance.licence == "mit"
    assert (ours.preprocessing.image_size, ours.preprocessing.resize) == (299, 341)
    tuned = create_model("inception_v3", 5, weights="hf:me/timm", adapt=["head", "aux"])
    assert torch.equal(tuned.mixed_7c.state_dict()["0.0.conv.weight"], ours.mixed_7c.state_dict()["0.0.conv.weight"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, r"weights=hf:me/x could not be downloaded .*check the name and the network"),
        ({}, "weights=hf:me/x: the repository has no model.safetensors"),
        ({"model.safetensors": "googlenet"}, "neither a card of inception_zoo nor timm's config.json"),
        ({"model.safetensors": "googlenet", "config.json": "{}"}, r"timm's config.json cannot be read \(KeyError"),
        ({"model.safetensors": "googlenet", "config.json": "[1]"}, r"timm's config.json cannot be read \(AttributeError"),
        ({"model.safetensors": "googlenet", "config.json": "list"}, "they are of .*, not of this family"),
        ({"model.safetensors": "googlenet", "config.json": "tiny"}, r"config.json cannot be read \(OverflowError"),
        ({"model.safetensors": "googlenet", "config.json": "half"}, "num_classes"),
        ({"model.safetensors": "googlenet", "config.json": "resnet"}, "they are of resnet18, not of this family"),
    ],
)
def test_repositories_that_are_refused(hub, files, message):
    from safetensors.torch import save

    stated = {"input_size": [3, 96, 96], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "interpolation": "bilinear"}
    known = {
        "googlenet": save({"weight": torch.zeros(1)}),
        "resnet": json.dumps({"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": stated}).encode(),
        "list": json.dumps({"architecture": [], "num_classes": 3, "pretrained_cfg": stated}).encode(),
        "tiny": json.dumps({"architecture": "inception_v3", "pretrained_cfg": {**stated, "crop_pct": 1e-320}}).encode(),
        "half": json.dumps({"architecture": "inception_v3", "num_classes": None, "pretrained_cfg": stated}).encode(),
    }
    if files is not None:
        hub.repos["me/x"] = {"1" * 40: {name: known.get(text, text.encode()) for name, text in files.items()}}
    with pytest.raises(ZooError, match=message):
        load_model("hf:me/x")


def test_offline_is_not_an_empty_repository(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ZooError, match=r"weights=hf:me/x could not be downloaded \(LocalEntryNotFoundError"):
        load_model("hf:me/x")


@UPLOADS
def test_an_upload_does_not_publish_what_is_private_or_leave_what_is_old(hub):
    other = trained("googlenet", width=0.125)
    other.push_to_hub("me/net")
    with pytest.raises(ZooError, match="--private: the repository me/net exists and is public; nothing was uploaded"):
        other.push_to_hub("me/net", private=True)
    first = next(reversed(hub.repos["me/net"]))
    hub.repos["me/net"][first]["config.json"] = b"{}"  # of earlier weights, which timm loaded
    trained("googlenet", width=0.25).push_to_hub("me/net")
    assert set(hub.files("me/net", "main")[1]) == {"README.md", "model.safetensors", "network.png"}


def test_a_folder_tells_the_origin_without_paths_and_the_licence(tmp_path):
    (tmp_path / "clinic").mkdir()
    save_model(trained("googlenet", width=0.125), tmp_path / "clinic/secret.safetensors")
    model = trained("googlenet", width=0.125)
    load_weights(model, tmp_path / "clinic/secret.safetensors")
    evil = Provenance(str(tmp_path / "clinic/x.pth"), "native", notes=["a | b\n# Evil"])
    model.provenance = replace(model.provenance, origin=vars(evil), licence="mit\n---\n# Evil")
    model.save_pretrained(tmp_path / "one")
    stored = (tmp_path / "one/model.safetensors").read_bytes() + (tmp_path / "one/README.md").read_bytes()
    assert b"secret.safetensors" in stored and b"clinic" not in stored
    card = (tmp_path / "one/README.md").read_text()
    assert card.startswith("---\nlicense: other\nlibrary_name") and "\n# Evil" not in card
    model.save_pretrained(tmp_path / "two", licence="apache-2.0")
    assert "license: apache-2.0" in (tmp_path / "two/README.md").read_text()
    assert Pretrained.from_pretrained(tmp_path / "two").provenance.licence == "apache-2.0"
    with pytest.raises(ZooError, match="two is a folder, which has no revisions"):
        Pretrained.from_pretrained(tmp_path / "two", revision="main")


@pytest.mark.parametrize("resize", [118, 110])
def test_timm_resizes_to_the_same_size(tmp_path, resize):
    from timm.data import resolve_data_config

    model = trained("inception_v4")
    model.preprocessing = Preprocessing(96, (0.5,) * 3, (0.5,) * 3, resize)
    model.save_pretrained(tmp_path / "folder")
    config = json.loads((tmp_path / "folder/config.json").read_text())["pretrained_cfg"]
    assert floor(96 / resolve_data_config({}, config)["crop_pct"]) == resize


def test_an_embedding_is_never_exported_without_its_head(tmp_path):
    model = trained("inception_v3", head="embedding", embedding=8)
    with pytest.raises(ZooError, match="layout=timm of inception_v3 has no embedding, but this network has one"):
        export_weights(model, "timm")
    model.reset_classifier(0)
    assert model.save_pretrained(tmp_path / "folder") == "native"
    assert "an embedding of 8 numbers" in (tmp_path / "folder/README.md").read_text()
    with pytest.raises(ZooError, match="has an embedding, which this network lacks"):
        export_weights(create_model("inception_resnet_v1_facenet", 3, head="linear", width=0.125), "facenet")


def test_names():
    assert hub_name("hf:owner/name") == ("owner/name", None)
    assert hub_name("hf:owner/my.name-2@refs/pr/1") == ("owner/my.name-2", "refs/pr/1")
    assert is_name("hf:owner/name")
    for wrong in ("hf:name", "hf:a/b/c", "hf:../x", "hf:a/..%2f", "hf:a/b@", "hf:a/b@-x", "hf:a/b c"):
        with pytest.raises(ZooError, match="names such as hf:owner/name"):
            hub_name(wrong)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("x.pth y.pth --to timm --push me/x", "--push needs --to hub"),
        ("x.pth folder --to hub --private", "--private needs --push OWNER/NAME"),
        ("x.pth folder --to hub --push x", "--push x: the name of a repository is OWNER/NAME"),
        ("x.pth folder --to hub --push a/b@main", "--push a/b@main: the name of a repository is OWNER/NAME"),
        ("x.pth folder --to hub --licence MIT", "--licence MIT: the Hub has names such as mit"),
        ("x.pth folder --to hub --overwrite", "--overwrite cannot be combined with --to hub"),
        ("x.pth full --to hub", "full is not empty; give another folder"),
        ("x.pth file --to hub", "file is a file; --to hub writes a folder"),
    ],
)
def test_mistakes(cli, tmp_path, words, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    (tmp_path / "file").touch()
    done = cli("convert", *words.split())
    assert done.returncode == 2 and message in done.stderr


def test_without_a_login_the_folder_is_kept(hub, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    save_model(trained("googlenet", width=0.125), tmp_path / "net.safetensors")
    done = cli("convert", "net.safetensors", "folder", "--to", "hub", "--push", "me/x")
    assert done.returncode == 2 and "log in with `hf auth login`, or set HF_TOKEN" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "hf_other" not in done.stderr
    assert (tmp_path / "folder/model.safetensors").exists()
