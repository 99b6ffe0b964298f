import copy
import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from conftest import ROOT
from hydra.core.config_store import ConfigStore
from PIL import Image

from inception_zoo.architecture.nets import ZOO
from inception_zoo.config.hydra_patches import install


def test_list_shows_the_published_figures(cli):
    done = cli("list")
    assert done.returncode == 0
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    assert rows["inception_v3"] == ["21.2", "/", "5.6", "23.83", "27.16", "5.71", "299", "75/39/21"]
    assert rows["bn_inception"][3:] == ["11.30", "–", "2.03", "224", "31/16/8*"]
    words = " ".join(done.stdout.split())
    assert (
        "* bn_inception: only 31 to 38, 63 to 70, … px (every 32 px) / 16 to 19, 32 to 35, … px (every 16 px) / 8 to 9,"
        in words
    )


def test_list_names_the_blocks_to_swap_in(cli):
    done = cli("list", "--json")
    listed = json.loads(done.stdout)
    assert [net["name"] for net in listed["networks"]] == list(ZOO)
    assert {"parallel", "residual_expanded", "reduction_pool"} <= set(listed["variants"]) and all(listed["variants"].values())


def test_the_tables_of_networks_are_as_counted(cli):
    guide, readme = table_of(ROOT / "docs/guides/train.md"), table_of(ROOT / "README.md")
    for net in json.loads(cli("list", "--json").stdout)["networks"]:
        params, size = f"{net['params'] / 1e6:.2f} M", str(net["image_size"])
        aux = f"{net['params_with_aux'] / 1e6:.2f} M" if net["aux"] else "–"
        macs = f"{net['macs'] / 1e9:.2f} G"
        smallest = " / ".join(map(str, net["min_image_size"].values()))
        assert guide[net["name"]] == [net["error"], params, aux, macs, size, smallest]
        assert readme[net["name"]] == [net["error"].split(" / ")[0], params, macs, f"{size} px"]


def table_of(page):
    """Return the cells after the second of each row that begins with networks, by the name of each network."""
    rows = [line.strip("|").split("|") for line in page.read_text("utf-8").splitlines() if line.startswith("| `")]
    return {name: [cell.strip() for cell in row[2:]] for row in rows for name in re.findall(r"`(\w+)`", row[0])}


# From FACTS.md and the papers: parameters, parameters with auxiliary heads, multiply-adds in G, MiB saved for backward
PUBLISHED = {
    "googlenet": (6_998_552, 13_378_280, 1.5, None),
    "googlenet_bn": (6_624_904, 13_004_888, 1.498, 46.0),
    "bn_inception": (11_295_240, 11_295_240, 2.0, None),
    "inception_v3": (23_834_568, 27_161_264, 5.713, 93.7),
    "inception_v4": (42_679_816, None, 12.254, 164.3),
    "inception_resnet_v2_slim": (55_843_464, None, 13.156, 175.8),
}


@pytest.mark.parametrize("name", ZOO)
def test_describe_equals_the_published_figures(cli, name):
    described = json.loads(cli("describe", name, "--json").stdout)
    total, parts = described["total"], described["endpoints"]
    heads, classifier = described["aux"].values(), described["classifier"]
    for key in ("params", "macs", "saved"):
        assert sum(part[key] for part in parts) + classifier[key] == total[key]
    assert total["params_with_aux"] == total["params"] + sum(head["params"] for head in heads)
    if name in PUBLISHED:
        params, with_aux, macs, saved = PUBLISHED[name]
        assert total["params"] == params and with_aux in (None, total["params_with_aux"])
        assert total["macs"] / 1e9 == pytest.approx(macs, rel=0.06 if macs in (1.5, 2.0) else 1e-3)  # papers round
        assert saved is None or total["saved"] / 2**20 == pytest.approx(saved, rel=2e-3)


def test_the_first_block_beside_a_single_convolution(cli):
    """FACTS.md: about 0.16 M parameters and 128 M multiply-adds; one 3x3 has 0.44 M and 346 M, one 5x5 1.22 M and 963 M."""
    (block,) = (
        e for e in json.loads(cli("describe", "googlenet", "--json").stdout)["endpoints"] if e["name"] == "inception_3a"
    )
    assert (block["params"], block["macs"]) == (163_328 + 368, 163_328 * 28 * 28)  # 368 biases
    assert block["conv3x3"] == {"params": 442_368 + 256, "macs": 346_816_512}
    assert block["conv5x5"] == {"params": 1_228_800 + 256, "macs": 963_379_200}
    assert block["rows"] == ["1x1 64", "1x1 96 > 3x3 128", "1x1 16 > 5x5 32", "max > 1x1 32"]
    assert block["output"] == [256, 28, 28] and block["field"] == [59, 59]


def test_describe_shows_what_is_swapped(cli):
    done = cli(
        "describe", "inception_v3", "model.blocks.grid17=residual", 'blocks.mixed_7c=["1x1 1024","avg > 1x1 1024"]', "width=0.5"
    )
    assert done.returncode == 0, done.stderr
    assert "inception_v3 at 299 px, grid17=residual, mixed_7c=rows" in done.stdout
    assert "mixed_6b *" in done.stdout and "1x1 56 > 1x7 56 > 7x1 56" in done.stdout and "as mixed_6b" in done.stdout
    assert "projected to 384, x 0.1, added" in done.stdout


def test_describe_puts_two_networks_side_by_side(cli):
    done = cli("describe", "--diff", "inception_v3", "inception_v3", "blocks.grid17=residual", "blocks.mixed_6a=reduction_pool")
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if "mixed_6b  768 x 17x17" in line)
    assert "mixed_6b *  768 x 17x17" in line
    done = cli("describe", "--diff", "inception_v3", "xception", env={"COLUMNS": "160"})  # four stages and three
    assert done.returncode == 0 and "conv4" in done.stdout and "mixed_7c" in done.stdout
    one, other = json.loads(cli("describe", "--diff", "inception_v3", "inception_v4", "--json").stdout)
    assert (one["name"], other["name"]) == ("inception_v3", "inception_v4")


@pytest.mark.parametrize("name", ZOO)
def test_the_picture_names_every_stage_and_what_is_swapped(name, tmp_path):
    from inception_zoo.architecture.plan import make_plan
    from inception_zoo.describe.drawing import network_figure

    for blocks in ({}, {"all": "residual_expanded"}, {"all": "reduction_residual"}):
        plan = make_plan(ZOO[name], blocks=blocks)
        texts = [text.get_text() for text in network_figure(plan, plan.net.image_size).axes[0].texts]
        branches = any(len(block.rows) > 1 for block in plan.blocks)  # Xception has none
        assert {*plan.net.stages} <= set(texts) and any("filter concat" in text for text in texts) == branches
        swapped = [text for text in texts if text.startswith("swapped: ")]
        assert swapped == [f"swapped: all={choice}" for choice in blocks.values()]
        assert any(text.endswith(f"   {choice}") for text in texts for choice in blocks.values()) == bool(blocks)


def test_describe_draws(cli, tmp_path):
    for name in ("net.svg", "net.png"):
        done = cli("describe", "googlenet", "blocks.grid14=residual", "--draw", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
    assert ElementTree.parse(tmp_path / "net.svg").getroot().tag.endswith("svg")
    with Image.open(tmp_path / "net.png") as picture:
        assert picture.width > 1000 and len(picture.convert("RGB").getcolors(1 << 24)) > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inception_v5"], "model 'inception_v5' is unknown; did you mean 'inception_v"),
        (
            ["inception_v3", "blocks.grid17=residul"],
            "blocks.grid17=residul: variant 'residul' is unknown; did you mean 'residual'?",
        ),
        (["inception_v3", "blocks.mixed_6b=[1x1 > ]"], "cannot be read"),
        (["inception_v3", "width=1,2"], "'width=1,2' has several values"),
        (["inception_v3", "wdth=1"], "wdth is not an option; did you mean 'width'?"),
        (["width=1", "inception_v3"], "'width=1' comes before any network"),
        (["inception_v3", "inception_v4"], "describe takes 1 network, not 2"),
        (["--diff", "inception_v3"], "describe --diff takes 2 networks, not 1"),
        (
            ["inception_v3", "--image-size", "40"],
            "inception_v3, grid17 mixed_6a: the 2x2 grid is smaller than the kernel of '3x3/2v 384'",
        ),
        (["inception_v3", "--draw", "net.gif"], "--draw net.gif: the name must end in .svg or .png"),
        (["inception_v3", "--draw", "no/net.svg"], "--draw no/net.svg: there is no folder no"),
    ],
)
def test_a_wrong_description_is_one_line(cli, arguments, message):
    done = cli("describe", *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr


@pytest.mark.parametrize("arguments", [["bench", "inception_v5"], ["lst"]])
def test_mistakes_end_in_status_2(cli, arguments):
    done = cli(*arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_parity_is_measured_from_the_command_line(cli):
    done = cli("parity", "timm inception_v3, without aux", "--json")
    assert done.returncode == 0, done.stderr
    (proof,) = json.loads(done.stdout).values()
    assert proof["round_trip"] and max(proof["training"].values()) < 1e-5
    done = cli("parity", "timm inception_v5")
    assert done.returncode == 2 and "pair 'timm inception_v5' is unknown; did you mean 'timm inception_v4'?" in done.stderr


@pytest.mark.parametrize("words", [["data=digits", "augmentation=trivial", "augmentation.mixup=0.5"], ["data=imagefolder"]])
def test_data_show_draws_a_row_for_each_image(cli, words, tmp_path, image_tree):
    words = words + ([f"data.root={image_tree}"] if "data=imagefolder" in words else [])
    done = cli(
        "data", "show", *words, "data.image_size=96", "--out", str(tmp_path / "sheet.png"), "--images", "3", "--draws", "4"
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > sheet.height > 300 and sheet.getextrema()[0][1] > 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=digit"], "data=digit is unknown; did you mean 'digits'?"),
        (["data=digits", "--out", "sheet.txt"], "--out sheet.txt: must end in one of .png"),
        (["data=digits", "--out", "nowhere/sheet.png"], "there is no folder nowhere"),
        (["data=digits", "data.flip=2"], "data.flip=2 must be a number of at least 0 and at most 1"),
        (
            ["data=digits", "augmentation.transforms.shift.translate=[2,2]"],
            "augmentation.transforms.shift: translation values should be between 0 and 1",
        ),
    ],
)
def test_data_show_names_mistakes_in_one_line(cli, words, message):
    done = cli("data", "show", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1


def test_data_optimize_names_mistakes_in_one_line(cli, tmp_path):
    for arguments, message in (
        ((tmp_path / "nowhere", tmp_path / "out"), "nowhere cannot be read: No such file or directory"),
        ((tmp_path, tmp_path / "out", "--chunk-size", "lots"), "has no class folders"),
    ):
        done = cli("data", "optimize", *arguments)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()


HEAVY = {"torch", "torchvision", "lightning", "torchmetrics", "wandb", "scipy", "matplotlib", "sklearn", "timm", "litdata"}
SWIFT = {
    "help": ("run.py", "--help"),
    "the config": ("run.py", "--cfg", "job", "experiment=inception_v3_imagenet", "data.root=nowhere"),
    "a mistake": ("run.py", "model=inception_v5"),
    "list": ("-m", "inception_zoo.cli", "list"),
    "the data": ("-m", "inception_zoo.data.fashion_mnist", "data"),
}


@pytest.mark.parametrize("case", SWIFT)
def test_what_only_looks_loads_nothing_heavy(case):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *SWIFT[case]], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "inception_zoo" in imported and not HEAVY & imported
    assert done.returncode == (2 if case == "a mistake" else 0)


def test_hydra_copies_what_it_loads_from_a_store_that_is_not_copied(monkeypatch):
    install()
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", {})
    store.store(group="model", name="stored", node={"width": 1.0})
    copy.deepcopy(store).load("model/stored.yaml").node.width = 7
    assert copy.deepcopy(store) is store and store.load("model/stored.yaml").node.width == 1.0
