"""Every file in conf/ composes and instantiates, and an error in it is reported by its key."""

from itertools import permutations
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from inception_zoo import ZooError
from inception_zoo.architecture.nets import ALIASES, ZOO
from inception_zoo.architecture.plan import plan_of
from inception_zoo.architecture.variants import BLOCKS
from inception_zoo.config import CONF
from inception_zoo.config.check import check
from inception_zoo.config.explain import explain_all
from inception_zoo.config.rules import kind_of
from inception_zoo.data import Augmentation, ImageData
from inception_zoo.errors import TREE
from inception_zoo.runs.results import reason_of
from inception_zoo.training.components import NOT_LIGHTNINGS, build_logit_loss, build_loss

OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("experiment", "sweep", "model", "block")
)
EXPERIMENTS = sorted(path.stem for path in CONF.glob("experiment/*.yaml"))


def table_of_images(root):
    """Write a table and return the override for it; the classes are counted before any image is read."""
    (root / "labels.csv").write_text("path,label\na.png,ant\nb.png,bee\n")
    return [f"data.root={root / 'labels.csv'}"]


def folder_of_images(root):
    """Create class folders and return the override for them; the classes are counted before any image is read."""
    for name in ("n01440764", "n01443537"):
        (root / "images" / "train" / name).mkdir(parents=True)
    return [f"data.root={root / 'images'}"]


def data_set_of_the_hub(root):
    return [f"data.root={root}", "data.num_classes=2"]


FOLDERS = dict.fromkeys(("imagefolder", "imagenet", "stream"), folder_of_images)
NEEDED = {  # option → the overrides without which it is refused
    **FOLDERS,
    "table": table_of_images,
    "hf": data_set_of_the_hub,
    "unfreeze": lambda root: ["model.freeze=all"],
    "finetune": lambda root: [f"model.weights={root}"],
}


def test_the_glob_finds_the_groups():
    assert {group for group, _ in OPTIONS} == {
        "data",
        "augmentation",
        "recipe",
        "trainer",
        "optimizer",
        "scheduler",
        "callbacks",
        "logger",
        "loss",
    }
    assert {"quickstart", "tutorial"} <= set(EXPERIMENTS)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_instantiates(group, option, composed, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")  # the logger sets it; monkeypatch restores it
    if option in ("tensorboard", "mlflow"):
        pytest.importorskip(option)
    cfg = composed(f"{group}={option}", *NEEDED.get(option, lambda root: ())(tmp_path))
    check(OmegaConf.to_container(cfg, resolve=True))
    if group == "recipe":
        return  # the groups that a recipe selects are tested here one by one
    node = cfg[group]
    if group == "trainer":
        options = {key: value for key, value in node.items() if key not in NOT_LIGHTNINGS}
        assert instantiate(options, precision="32-true", logger=False).max_epochs == node.max_epochs
    elif group in ("callbacks", "logger"):
        assert all(instantiate(child) for child in node.values())
    elif group == "loss" and kind_of(node) != "embedding":
        loss = build_logit_loss(node)
        assert loss is not None and loss.several == (kind_of(node) == "several")
    elif group == "loss":
        assert cfg.model.num_classes == 0 and isinstance(build_loss(node, plan_of(cfg.model), 10), torch.nn.Module)
    elif group == "optimizer":
        assert instantiate(node)([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"] == node.lr
    elif group == "scheduler":
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
        scheduler = instantiate(node)(optimizer, steps=10, epoch_steps=5)
        optimizer.step()
        scheduler.step()
    elif group == "augmentation":
        assert isinstance(instantiate(OmegaConf.to_container(node, resolve=True), _convert_="all"), Augmentation)
    else:
        assert isinstance(instantiate(node), ImageData)


@pytest.mark.parametrize("group", ["logger", "callbacks"])
def test_presets_combine(group, composed):
    """Any two presets of a group compose, in both orders, to the parts of both."""
    names = [option for each, option in OPTIONS if each == group]
    alone = {name: set(composed(f"{group}={name}")[group] or ()) for name in names}
    assert len(names) > 2
    for one, other in permutations(names, 2):
        cfg = OmegaConf.to_container(composed(f"{group}=[{one},{other}]", "model.freeze=all"), resolve=True)
        assert set(cfg[group]) == alone[one] | alone[other], (one, other)
        check(cfg)


@pytest.mark.parametrize("name", [*ZOO, *ALIASES])
def test_every_model_option_lists_its_stages_and_endpoints(name, composed):
    cfg = composed(f"model={name}")
    net = ZOO[ALIASES.get(name, name)]
    assert cfg.model.name == net.name
    assert dict.fromkeys(cfg.model.blocks) == dict(cfg.model.blocks)  # all null
    assert set(cfg.model.blocks) == {"all", *list(net.stages)[1:]} | {e for layers in net.stages.values() for e in layers}
    assert plan_of(OmegaConf.to_container(cfg.model, resolve=True)).shapes(96)


@pytest.mark.parametrize("variant", BLOCKS)
def test_the_block_group_sets_the_whole_network(variant, composed):
    cfg = OmegaConf.to_container(composed("model=inception_v4", f"block={variant}"), resolve=True)
    check(cfg)
    swapped = [block.swapped for block in plan_of(cfg["model"]).blocks]
    assert swapped.count(variant) == 14 and set(swapped) == {variant, None}


def test_the_sweep_is_network_by_stage_by_variant():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from inception_zoo.runs.sweepers import BlockSweeper, BlockSweeperConf

    conf = BlockSweeperConf()
    assert conf.params == {"model": ",".join(ZOO)}
    overrides = OverridesParser.create().parse_overrides([f"model={conf.params['model']}", "seed=1,2"])
    jobs = BlockSweeper(None, conf.params, conf.variants).combinations(overrides)
    assert len(jobs) == len(set(map(tuple, jobs))) == 2 * ((len(ZOO) - 2) * (1 + 3 * 6) + 2 * (1 + 6))
    assert not [job for job in jobs if "xception" in job[0] and any("exit" in word for word in job)]  # it has no block to swap
    assert ["model=inception_v3", "seed=2", "model.blocks.grid17=residual"] in jobs and ["model=googlenet", "seed=1"] in jobs


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_has_its_page(name, composed, tmp_path, monkeypatch):
    cfg = composed(f"experiment={name}")
    if cfg.data.root is None:
        cfg = composed(f"experiment={name}", *folder_of_images(tmp_path))
    monkeypatch.chdir(tmp_path)
    if weights := cfg["model"]["weights"]:  # the run folder of another experiment
        Path(weights).mkdir(parents=True)
    check(OmegaConf.to_container(cfg, resolve=True))
    page = Path(__file__).parents[2] / "experiments" / f"{name}.md"
    assert f"python run.py experiment={name}" in page.read_text()
    assert f"experiments/{name}.md" in (CONF / "experiment" / f"{name}.yaml").read_text()


def test_the_tutorial_experiment_is_the_tutorials_network(composed):
    from inception_zoo.architecture.cost import plan_cost

    cfg = OmegaConf.to_container(composed("experiment=tutorial"), resolve=True)
    assert plan_cost(plan_of(cfg["model"]), cfg["data"]["image_size"]).params == 5_977_530
    assert (cfg["optimizer"]["lr"], cfg["optimizer"]["momentum"], cfg["optimizer"]["weight_decay"]) == (0.1, 0.0, 0.0)
    assert (cfg["data"]["batch_size"], cfg["data"]["image_size"], cfg["trainer"]["max_epochs"]) == (128, 96, 10)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=train"], "task=train must be one of fit, test"),
        (["data.batch_size=0"], "data.batch_size=0 must be a whole number of at least 1"),
        (["data.image_size=big"], "data.image_size=big must be"),
        (["data.val_size=abc"], "data.split.val=abc must be a whole number of at least 1 or a number above 0, below 1 or null"),
        (["data.std=[0.0]"], "data.std=[0.0] must be a list, each a number above 0"),
        (["data.mean=[0.1,0.2]"], "data.mean=[0.1, 0.2] must have one value per channel"),
        (["data.root=''"], "data.root= must be a folder"),
        (["model.num_classes=abc"], "model.num_classes=abc must be"),
        (["trainer.max_epochs=-1"], "trainer.max_epochs=-1 must be"),
        (["~logger"], "logger=null must be one of the group's options"),
        (["model.norm=lrn", "model=inception_v3"], "inception_v3: norm=lrn: no row"),
        (["seed=-1"], "seed=-1 must be"),
        (["model.num_classes=5"], "model.num_classes=5: the data has 10 classes"),
        (["model.in_channels=3"], "model.in_channels=3: the images have 1"),
        (["label_smoothing=1"], "label_smoothing=1 must be"),
        (["aux_weight=-1"], "aux_weight=-1 must be"),
        (["lr_for_batch=0"], "lr_for_batch=0 must be"),
        (["lr_for_batch=256", "~optimizer.lr"], "lr_for_batch=256 needs optimizer.lr"),
        (["decay_norm_and_bias=2"], "decay_norm_and_bias=2 must be true or false"),
        (["data.flip=2"], "data.flip=2 must be"),
        (["data.crop_pct=0"], "data.crop_pct=0 must be"),
        (["data.crops=5"], "data.crops=5 must be one of 1, 2, 10, 144"),
        (["data.workers=-1"], "data.workers=-1 must be"),
        (["data.eval_batch_size=0"], "data.eval_batch_size=0 must be"),
        (["data.progressive=[96]"], "data.progressive=[96] must be image sides in pixels"),
        (["data.progressive={0:128}"], "data.progressive.0=128 is larger than data.image_size=96"),
        (["data.progressive={0:20}"], "data.progressive.0=20 is below the minimum of 31 px"),
        (["data=imagefolder"], "data.root=null: not set; set data.root=FOLDER; for an address"),
        (["data=imagefolder", "data.root=nowhere"], "data.root=nowhere: there is no such folder; for an address"),
        (["model=inception_v3", "data.image_size=28"], "below the minimum of 75 px"),
        (["model=inception_v3", "data.image_size=28"], "; or set model.stem=small"),
        (["model=inception_v3", "data.image_size=60"], "; or set model.stem=medium"),
        (["model=inception_v3", "data.image_size=9"], "below the minimum of 75 px"),
        (["model=bn_inception", "data.image_size=72"], "data.image_size=72 does not fit"),
        (["model=bn_inception", "data.image_size=72"], "; use 70; sizes that fit: 31 to 38, 63 to 70, … px (every 32 px)"),
        (["model.norm=bach"], "model.norm=bach must be one of none, lrn, batch, group; did you mean 'batch'?"),
        (
            ["block=residual", "model.blocks.grid28=reduction_pool"],
            "blocks.grid28=reduction_pool: grid28 has no grid reduction",
        ),
        (["model.drop_path=0.1"], "googlenet: drop_path=0.1: no block is residual"),
        (["model.blocks.inception_3a=[1x1]"], "googlenet, grid28 inception_3a: row '1x1': token '1x1'"),
    ],
)
def test_mistakes_are_named(overrides, message, composed):
    cfg = composed(*overrides)
    with pytest.raises(ZooError) as error:
        check(OmegaConf.to_container(cfg, resolve=True))
    assert message in str(error.value) and "\n" not in str(error.value).removesuffix(TREE)


@pytest.mark.parametrize("folders", [(), ("train",), ("Train", "Val")])
def test_a_folder_without_classes_is_not_called_missing(folders, composed, tmp_path):
    root = tmp_path / "photos"
    for folder in (root, *(root / name for name in folders)):
        folder.mkdir()
    (root / "1.jpg").touch()
    with pytest.raises(
        ZooError, match=f"data.root={root}: no class folders in it, nor in a folder train; for an address such as s3://"
    ):
        check(OmegaConf.to_container(composed("data=imagefolder", f"data.root={root}"), resolve=True))


def test_the_size_that_is_proposed_fits(composed):
    cfg = composed("model=bn_inception", "data.image_size=72")
    with pytest.raises(ZooError) as error:
        check(OmegaConf.to_container(cfg, resolve=True))
    near = int(str(error.value).rpartition("; use ")[2].partition(";")[0])
    check(OmegaConf.to_container(composed("model=bn_inception", f"data.image_size={near}"), resolve=True))


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [  # network, image size, optimizer, rate, for batch size, decay factor, every epochs, label smoothing, clip, dropout
        ("googlenet_imagenet", ("googlenet", 224, "SGD", 0.01, 32, 0.96, 8, 0.0, None, 0.4)),
        ("bn_inception_x5", ("bn_inception", 224, "SGD", 0.0075, 32, 0.96, 8 / 6, 0.0, None, 0.0)),
        ("inception_v3_imagenet", ("inception_v3", 299, "RMSpropTF", 0.045, 256, 0.94, 2, 0.1, 2.0, 0.2)),
        ("inception_v4_imagenet", ("inception_v4", 299, "RMSpropTF", 0.045, 256, 0.94, 2, 0.1, 2.0, 0.2)),
        ("inception_resnet_v2_imagenet", ("inception_resnet_v2", 299, "RMSpropTF", 0.045, 256, 0.94, 2, 0.1, 2.0, 0.2)),
    ],
)
def test_the_recipes_are_the_papers(experiment, expected, composed, tmp_path):
    cfg = OmegaConf.to_container(composed(f"experiment={experiment}", *folder_of_images(tmp_path)), resolve=True)
    optimizer, scheduler = cfg["optimizer"], cfg["scheduler"]
    found = (
        *(cfg["model"]["name"], cfg["data"]["image_size"], optimizer["_target_"].rpartition(".")[2], optimizer["lr"]),
        *(cfg["lr_for_batch"], scheduler["factor"], scheduler["epochs"]),
        *(cfg["label_smoothing"], cfg["trainer"]["gradient_clip_val"], cfg["model"]["dropout"]),
    )
    assert found == pytest.approx(expected)
    assert cfg["augmentation"]["crop"]["scale"] == [0.08, 1.0] and cfg["callbacks"]["ema"]["decay"] == 0.9999
    assert cfg["data"]["num_classes"] == cfg["model"]["num_classes"] == 2  # number of class folders
    if optimizer["_target_"].endswith("RMSpropTF"):
        assert (optimizer["alpha"], optimizer["eps"]) == (0.9, 1.0)


def test_an_error_in_a_worker_is_the_error():
    frames = 'Original Traceback:\n  File "a.py", line 3, in f\n    g()\n  File "b.py", line 1, in g\n'
    error = ZooError(
        f"Caught ZooError in DataLoader worker process 0.\n{frames}inception_zoo.errors.ZooError: x.jpg: is empty\n"
    )
    assert explain_all(error) == [reason_of(error)] == ["x.jpg: is empty"]


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_image_files_are_seen_at_the_networks_own_size(name, composed):
    cfg = composed(f"model={name}", "data=imagefolder", "data.root=x")
    assert cfg.data.image_size == ZOO[name].image_size


def test_a_recipe_can_take_the_place_of_an_experiments(composed):
    cfg = composed("experiment=inception_v3_imagenet", "recipe=modern", "data.root=x")
    assert cfg.optimizer["_target_"] == "torch.optim.SGD" and cfg.augmentation.mixup == 0.2 and cfg.label_smoothing == 0.1
    assert (cfg.model.name, cfg.data.image_size) == ("inception_v3", 299)
