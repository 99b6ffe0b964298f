"""Block variants: equal to the papers' blocks at the papers' channels, and valid at every other endpoint."""

import sys

import pytest
import torch

from inception_zoo import ZooError, create_model
from inception_zoo.architecture.cost import plan_cost
from inception_zoo.architecture.nets import ZOO
from inception_zoo.architecture.notation import show
from inception_zoo.architecture.plan import make_plan
from inception_zoo.architecture.variants import BLOCKS, REDUCTIONS
from inception_zoo.network.blocks import ResidualBlock

STAGES = {name: make_plan(net).swappable for name, net in ZOO.items()}

# variant: (network, endpoint, input channels, output channels, level or pool) of the block in the paper
PAPERS_OWN = {
    "parallel": ("googlenet", "inception_3a", 192, 256, 0),
    "parallel_bn": ("bn_inception", "inception_3a", 192, 256, 0),
    "factorized_nx1": ("inception_v3", "mixed_6e", 768, 768, 1),
    "expanded": ("inception_v3", "mixed_7c", 2048, 2048, 2),
    "separable": ("xception", "block4", 728, 728, 0),
    "reduction_pool": ("googlenet", "pool3", 480, 480, "max/2c"),
    "reduction_parallel_bn": ("bn_inception", "inception_3c", 320, 576, "max/2c"),
    "reduction_expanded": ("inception_v3", "mixed_6a", 288, 768, "max/2v"),
    "reduction_factorized_nx1": ("inception_v3", "mixed_7a", 768, 1280, "max/2v"),
    "reduction_residual": ("inception_resnet_v1", "mixed_7a", 896, 1792, "max/2v"),
}


@pytest.mark.parametrize("variant", PAPERS_OWN)
def test_each_variant_is_the_papers_own_block(variant):
    network, endpoint, c_in, c_out, place = PAPERS_OWN[variant]
    (table,) = (stage[endpoint] for stage in ZOO[network].stages.values() if endpoint in stage)
    assert (BLOCKS | REDUCTIONS)[variant](c_in, c_out, place) == table


@pytest.mark.parametrize(
    ("level", "endpoint", "channels"), [(0, "block35_1", 256), (1, "block17_1", 896), (2, "block8_1", 1792)]
)
def test_residual_is_inception_resnet_v1s_block_of_each_grid(level, endpoint, channels):
    table = list(ZOO["inception_resnet_v1"].stages.values())[level + 1]
    assert BLOCKS["residual"](channels, channels, level) == table[endpoint]


# Networks whose stages have the channels of another one
SLOW = {"inception_v2_7x7", "inception_v3_slim", "inception_v3_fid", "inception_resnet_v1_facenet", "inception_resnet_v2_slim"}
SLOW |= {"xception_timm"}
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in ZOO]


@pytest.mark.parametrize("name", NAMES)
def test_every_block_at_every_stage_keeps_names_and_shapes(name):
    """Network x stage x variant, on the meta device. Each build covers three (stage, variant) pairs, one for each stage."""
    size = ZOO[name].image_size
    shapes = make_plan(ZOO[name]).shapes(size)
    x = torch.empty(2, 3, size, size, device="meta")
    names, seen = list(BLOCKS), set()
    for shift in range(len(names)):
        blocks = {stage: names[(i + shift) % len(names)] for i, stage in enumerate(STAGES[name])}
        with torch.device("meta"):
            model = create_model(name, blocks=blocks).eval()
        assert {key: tuple(maps.shape[1:]) for key, maps in model.endpoints(x).items()} == shapes, blocks
        assert {block.stage: block.swapped for block in model.plan.blocks if block.swapped} == blocks
        assert sum(p.numel() for p in model.parameters()) == plan_cost(model.plan).params, blocks
        seen.update(blocks.items())
    assert len(seen) == len(STAGES[name]) * len(BLOCKS)


@pytest.mark.parametrize("variant", BLOCKS)
@pytest.mark.parametrize(("name", "stage"), [(name, stage) for name in ZOO for stage in STAGES[name]])
def test_one_key_swaps_one_stage(name, stage, variant):
    plan = make_plan(ZOO[name], blocks={stage: variant})
    assert {(block.stage, block.swapped) for block in plan.blocks if block.swapped} == {(stage, variant)}
    assert plan.shapes(ZOO[name].image_size) == make_plan(ZOO[name]).shapes(ZOO[name].image_size)
    assert plan.swapped == f"{stage}={variant}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", REDUCTIONS)
def test_every_reduction_keeps_names_and_shapes(name, variant):
    size = ZOO[name].image_size
    with torch.device("meta"):
        model = create_model(name, blocks={"all": variant}).eval()
    x = torch.empty(2, 3, size, size, device="meta")
    assert {key: tuple(maps.shape[1:]) for key, maps in model.endpoints(x).items()} == make_plan(ZOO[name]).shapes(size)
    reductions = [block.name for block in make_plan(ZOO[name]).blocks if block.kind == "reduction" and block.stage != "stem"]
    assert [block.name for block in model.plan.blocks if block.swapped == variant] == reductions
    assert sum(p.numel() for p in model.parameters()) == plan_cost(model.plan).params


@pytest.mark.parametrize("variant", BLOCKS)
def test_width_scales_a_swapped_network_as_it_scales_the_table(variant):
    for width in (0.25, 0.5, 2):
        swapped = make_plan(ZOO["inception_v3"], width=width, blocks={"all": variant})
        assert swapped.shapes(299) == make_plan(ZOO["inception_v3"], width=width).shapes(299)


def test_the_nearest_key_wins_and_a_reduction_does_not_hide_the_blocks():
    blocks = {
        "all": "parallel",
        "grid17": "reduction_pool",
        "grid8": "residual",
        "mixed_7c": "expanded",
        "mixed_6c": ["1x1 768"],
    }
    plan = make_plan(ZOO["inception_v3"], blocks=blocks)
    swapped = {block.name: block.swapped for block in plan.blocks if block.swapped}
    assert swapped == {
        **dict.fromkeys(["mixed_5b", "mixed_5c", "mixed_5d", "mixed_6b", "mixed_6d", "mixed_6e"], "parallel"),
        "mixed_6a": "reduction_pool",
        "mixed_6c": "rows",
        "mixed_7b": "residual",
        "mixed_7c": "expanded",
    }


def test_a_residual_block_projects_its_input_only_where_channels_change():
    model = create_model("googlenet", 4, width=0.25, blocks={"all": "residual_parallel"})
    blocks = {name: m for name, m in model.named_children() if isinstance(m, ResidualBlock)}
    assert len(blocks) == 9
    assert {n for n, m in blocks.items() if isinstance(m.shortcut, torch.nn.Identity)} == {
        "inception_4b",
        "inception_4c",
        "inception_5a",
    }


def test_a_residual_block_is_the_formula():
    torch.manual_seed(0)
    model = create_model("inception_v3", 4, width=0.25, blocks={"mixed_6b": "residual"}, residual_scale=0.25).eval()
    block, x = model.mixed_6b, torch.randn(2, 192, 9, 9)
    with torch.no_grad():
        branches = torch.cat([branch(x) for branch in block.concat], 1)
        assert torch.allclose(block(x), (x + 0.25 * block.project(branches)).relu(), atol=1e-6)


def test_drop_path_rises_to_the_last_block_and_skips_the_rows_of_an_image():
    torch.manual_seed(0)
    model = create_model("inception_resnet_v1", 4, width=0.25, drop_path=0.5, norm="none")
    rates = [m.drop.p for m in model.modules() if isinstance(m, ResidualBlock)]
    assert len(rates) == 20 and rates == pytest.approx([0.5 * i / 20 for i in range(1, 21)])
    block, x = model.block8_5, torch.rand(64, 448, 3, 3)
    with torch.no_grad():
        same = [(a - b).abs().max() == 0 for a, b in zip(block.train()(x), x, strict=True)]
        assert 10 < sum(same) < 54
        assert not torch.equal(block.eval()(x)[0], x[0])


def test_residual_scale_and_drop_path_need_a_residual_block():
    for choice in ({"drop_path": 0.1}, {"residual_scale": 0.2}):
        with pytest.raises(ZooError, match=r"v3: (drop_path|residual_scale)=0\.\d: no block is residual; add some"):
            make_plan(ZOO["inception_v3"], **choice)
        make_plan(ZOO["inception_v3"], **choice, blocks={"grid8": "residual"})


def test_a_residual_block_by_hand():
    rows = ["1x1 64", "1x1 64 > 3x3 64"]
    plan = make_plan(ZOO["inception_v3"], blocks={"mixed_6b": {"rows": rows, "scale": 0.2}})
    (block,) = [b for b in plan.blocks if b.name == "mixed_6b"]
    assert (block.joined, block.c_out, block.residual.scale) == (128, 768, 0.2)
    shortcut = make_plan(ZOO["inception_v3"], blocks={"mixed_5b": {"rows": rows, "scale": 0.2, "shortcut": True}})
    assert shortcut.shapes(299)["mixed_5b"] == (256, 35, 35)


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        (
            "inception_v3",
            {"blocks": {"grid18": "residual"}},
            "blocks.grid18 is not a stage or endpoint; did you mean",
        ),
        ("inception_v3", {"blocks": {"zzz": "residual"}}, "valid: all, grid35, grid17, grid8, conv_1a"),
        (
            "inception_v3",
            {"blocks": {"grid17": "residul"}},
            "grid17=residul: variant 'residul' is unknown; did you mean 'res",
        ),
        ("inception_v3", {"blocks": {"grid17": "zzz"}}, "valid: parallel, parallel_bn, factorized_nx1, expanded, residual,"),
        (
            "inception_v3",
            {"blocks": {"mixed_6a": "parallel"}},
            "grid17 mixed_6a: 'parallel' cannot replace mixed_6a, which is a gr",
        ),
        ("inception_v3", {"blocks": {"mixed_6b": "reduction_pool"}}, "mixed_6b, which keeps the grid; valid: parallel,"),
        (
            "inception_v3",
            {"blocks": {"conv_2a": "parallel"}},
            "stem conv_2a: 'parallel' cannot replace conv_2a, whose unpadded",
        ),
        ("inception_v3", {"blocks": {"stem": "parallel"}}, "blocks.stem is not a stage or endpoint"),
        (
            "inception_v3",
            {"blocks": {"grid35": "reduction_pool"}},
            "grid35=reduction_pool: grid35 has no grid reduction",
        ),
        (
            "inception_v3",
            {"blocks": {"mixed_5b": {"rows": ["1x1 64"], "scale": 0.1}}},
            "grid35 mixed_5b: a residual sum over 192 channels cannot give 256; set shortcut=true; rows '1x1 64'",
        ),
        ("inception_v3", {"blocks": {"mixed_6b": {"rows": ["1x1 64"]}}}, "a residual block needs rows and scale"),
        ("inception_v3", {"blocks": {"mixed_6b": {"rows": [], "scale": 1}}}, "rows must be a list of rows"),
        ("inception_v3", {"blocks": {"mixed_6b": {"rows": "residual", "scale": 1}}}, "rows must be a list of rows"),
        ("inception_v3", {"blocks": {"mixed_6b": {"rows": ["1x1 8"], "scale": "a"}}}, "scale=a must be a number above 0"),
        ("inception_v3", {"blocks": {"mixed_6b": {"rows": ["1x1 8"], "scale": 1, "relu": 3}}}, "relu=3 must be true or false"),
        (
            "inception_v3",
            {"blocks": {"mixed_6b": "math.pow"}},
            "grid17 mixed_6b: 'math.pow' failed with TypeError: pow expected 2",
        ),
        ("inception_v3", {"blocks": {"mixed_6b": 3}}, "blocks.mixed_6b=3: must be a variant or a list of rows"),
        (
            "googlenet",
            {"width": 0.05},
            "googlenet, grid28 inception_3a: row '1x1 16 > 5x5 32': width=0.05 is too small for a branch of",
        ),
        (
            "googlenet",
            {"blocks": {"inception_4a": ["1x1 4"], "inception_4b": {"rows": ["1x1 8"], "scale": 1}}},
            "grid14 inception_4b: a residual sum over 4 channels cannot give 512",
        ),
        (
            "inception_resnet_v1",
            {"blocks": {"mixed_6a": ["max/2v > 1x1 4"], "block17_1": "parallel"}},
            "grid17 block17_1: row '1x1 0 > 5x5 0': token '1x1 0': a convolution needs",
        ),
        ("inception_v3", {"drop_path": 1}, "drop_path=1 must be a number from 0 to below 1"),
        ("inception_resnet_v1", {"residual_scale": -0.1}, "residual_scale=-0.1 must be a number above 0"),
        ("inception_v3", {"blocks": {"mixed_6b": "no_such_module.block"}}, "variant 'no_such_module.block' cannot be imported"),
        (
            "inception_v3",
            {"blocks": {"mixed_6b": "sys.maxsize"}},
            "variant 'sys.maxsize' cannot be imported: not a class or function",
        ),
    ],
)
def test_a_wrong_swap_names_stage_and_row(name, choices, message):
    with pytest.raises(ZooError) as error:
        make_plan(ZOO[name], **choices)
    assert message in str(error.value)


@pytest.mark.parametrize("rows", [["1x1 64", "3x3v 64"], ["3x3v 64"], ["3x3/2 64"]])
def test_rows_that_change_the_grid_of_a_residual_sum_are_named(rows):
    message = f"grid17 block17_2: a residual sum must keep the grid, but row '{rows[-1]}' changes it"
    with pytest.raises(ZooError, match=message):
        make_plan(ZOO["inception_resnet_v1"], blocks={"block17_2": rows})


def test_a_residual_sum_may_have_a_stride_and_no_projection():
    fields = {"scale": 1, "shortcut": True, "project": False}
    plan = make_plan(ZOO["inception_resnet_v1"], blocks={"mixed_6a": {"rows": ["max/2 > 1x1l 896"], **fields}})
    assert plan.shapes(299)["mixed_6a"] == (896, 18, 18)
    for rows in (["max/2v > 1x1l 896"], ["max/2 > 1x1l 448", "max/4 > 1x1l 448"]):
        message = f"row '{rows[-1]}' must give the grid of the shortcut '1x1/2l 896' of its residual sum"
        with pytest.raises(ZooError, match=message):
            make_plan(ZOO["inception_resnet_v1"], blocks={"mixed_6a": {"rows": rows, **fields}})
    with pytest.raises(ZooError, match="gives 64 channels instead of 896"):
        make_plan(ZOO["inception_resnet_v1"], blocks={"mixed_6a": {"rows": ["max/2 > 1x1 64"], **fields}})
    with pytest.raises(ZooError, match="grid35 block35_1: row '3x3g5 64': 5 groups must divide 256 inputs and 64 outputs"):
        make_plan(ZOO["inception_resnet_v1"], blocks={"block35_1": ["3x3g5 64"]})
    with pytest.raises(ZooError, match="inception_3a: norm=batch leaves no rows of the residual sum"):
        make_plan(ZOO["googlenet_bn"], blocks={"inception_3a": {"rows": ["lrn"], **fields}})
    with pytest.raises(ZooError, match="a residual sum without projection adds 768 channels to 896; set project=true"):
        make_plan(ZOO["inception_resnet_v1"], blocks={"block17_1": {**fields, "rows": ["3x3g > 1x1l 768"], "shortcut": False}})


def test_rows_that_fit_no_image_are_blamed_and_not_the_images():
    plan = make_plan(ZOO["inception_v3"], blocks={"mixed_6b": ["2x2v 384", "1x1 384"]})
    with pytest.raises(ZooError) as error:
        plan.shapes(299)
    found = (
        "'2x2v 384' gives 16x16, '1x1 384' gives 17x17; a row keeps the grid with odd kernels, without stride and without 'v'"
    )
    assert str(error.value) == f"inception_v3, grid17 mixed_6b: the rows give different sizes and cannot be joined: {found}"


def test_a_variant_that_must_halve_the_grid_is_told_the_stride():
    with pytest.raises(ZooError, match=r"halve the grid here, but row '1x1 768' of 'plain' .*a stride, such as 'max/2v'"):
        make_plan(ZOO["inception_v3"], blocks={"mixed_6a": plain})


def plain(c_in, c_out, level):
    return [f"1x1 {c_out}"]


def squeeze(c_in, c_out, level):
    return [f"1x1 {c_out // 8} > 1x1 {c_out // 2} | 3x3 {c_out // 2}"]


def test_a_function_of_ones_own(tmp_path, monkeypatch):
    """A function given directly from Python, or by its import path as on the command line."""
    by_function = make_plan(ZOO["inception_v3"], blocks={"grid17": squeeze})
    (tmp_path / "my_blocks.py").write_text(
        "def squeeze(c_in, c_out, level):\n    return [f'1x1 {c_out // 8} > 1x1 {c_out // 2} | 3x3 {c_out // 2}']\n"
        "def narrow(c_in, c_out, level):\n    return ['1x1 8']\n"
        "def strided(c_in, c_out, level):\n    return [f'1x1/2 {c_out}']\n"
        "def even(c_in, c_out, level):\n    return [f'2x2 {c_out}']\n"
        "def nothing(c_in, c_out, level):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    by_path = make_plan(ZOO["inception_v3"], blocks={"grid17": "my_blocks.squeeze"})
    for plan in (by_function, by_path):
        rows = {block.name: [show(row) for row in block.rows] for block in plan.blocks}
        assert rows["mixed_6c"] == ["1x1 96 > 1x1 384 | 3x3 384"] and plan.shapes(299)["mixed_6e"] == (768, 17, 17)
    assert by_path.swapped == "grid17=my_blocks.squeeze" and by_function.swapped == "grid17=squeeze"
    for function, message in {
        "narrow": "'my_blocks.narrow' gives 8 channels instead of 768; rows '1x1 8'",
        "strided": "a variant must keep the grid here, but row '1x1/2 768' of 'my_blocks.strided' does not; a row keeps "
        "the grid with odd kernels, without stride and without 'v'",
        "even": "row '2x2 768': token '2x2 768': an even kernel cannot keep the size; use an odd one, or 'v' if the",
        "nothing": "'my_blocks.nothing' must return a list of rows, a Residual or a torch.nn.Module, not None",
    }.items():
        with pytest.raises(ZooError) as error:
            make_plan(ZOO["inception_v3"], blocks={"mixed_6b": f"my_blocks.{function}"})
        assert f"inception_v3, grid17 mixed_6b: {message}" in str(error.value)
    sys.modules.pop("my_blocks")
