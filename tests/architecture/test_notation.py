import itertools

import pytest
import torch

from inception_zoo.architecture.geometry import out_channels, out_size, scale_width
from inception_zoo.architecture.nets import ZOO
from inception_zoo.architecture.nets.table import Residual
from inception_zoo.architecture.notation import ACT, LRN, Conv, Depthwise, Pool, parse, show
from inception_zoo.errors import ZooError


def test_every_token_of_the_notation():
    assert parse("3x3/2v 384") == ((Conv((3, 3), 2, "v", 384),),)
    assert parse("1x7 64 > max/2c > lrn") == (
        (Conv((1, 7), 1, "", 64),),
        (Pool((3, 3), 2, "c", "max"),),
        (LRN,),
    )
    assert parse("1x1 384 > 1x3 384 | 3x1 384")[1] == (Conv((1, 3), 1, "", 384), Conv((3, 1), 1, "", 384))
    assert parse("max2x2/2c") == ((Pool((2, 2), 2, "c", "max"),),)
    assert parse("act > 3x3/2sd2g > 1x1l 8 > 3x3g4 8") == (
        (ACT,),
        (Depthwise((3, 3), 2, "s", dilation=2),),
        (Conv((1, 1), 1, "", 8, linear=True),),
        (Conv((3, 3), 1, "", 8, groups=4),),
    )


def rows_of_the_zoo():
    for net in ZOO.values():
        for layers in net.stages.values():
            for block in layers.values():
                yield from block.rows if isinstance(block, Residual) else block


@pytest.mark.parametrize("text", sorted(set(rows_of_the_zoo())))
def test_show_gives_back_what_parse_read(text):
    assert show(parse(text)) == text


@pytest.mark.parametrize(
    ("row", "at_fault"),
    [
        ("3x3", "'3x3': a convolution needs a kernel and a number of channels"),
        ("3y3 64", "unknown token '3y3 64'"),
        ("1x1 64 > conv 3", "unknown token 'conv 3'"),
        ("1x1 64 >", "unknown token ''"),
        ("1x1 64 | | 3x3 64", "unknown token ''"),
        ("max 64", "'max 64': a pool cannot change the channels; write 'max > 1x1 64'"),
        ("3x3/2c 64", "only pools have a ceil mode"),
        ("avg/2s", "an average would count the zeros of 's'"),
        ("1x1 64 | lrn", "'lrn' cannot be part of a fork"),
        ("act | 1x1 64", "'act' cannot be part of a fork"),
        ("3x3g 64", "a depthwise convolution as '3x3g > 1x1 64'"),
        ("3x3g32", "groups are written as '3x3g32 64'"),
        ("3x3gl", "a depthwise convolution has no activation; remove 'l'"),
        ("maxd2", "only convolutions have 'd', 'g' and 'l'"),
        ("2x2g", "an even kernel"),
        ("2x2 64", "an even kernel"),
        ("0x3 64", "unknown token '0x3 64'"),
        ("3x3 0", "token '3x3 0': a convolution needs at least 1 output channel"),
        ("3x3/0 64", "unknown token '3x3/0 64'"),
        ("", "a row is text"),
        (7, "a row is text"),
    ],
)
def test_a_wrong_row_names_its_token(row, at_fault):
    with pytest.raises(ZooError) as error:
        parse(row)
    assert at_fault in str(error.value)
    assert repr(row) in str(error.value) or f"'{row}'" in str(error.value)


def test_channels_of_chains_forks_and_pools():
    assert out_channels(parse("1x1 448 > 3x3 384 > 1x3 384 | 3x1 384"), 2048) == 768
    assert out_channels(parse("max/2v"), 192) == 192
    assert out_channels(parse("avg | max"), 10) == 20
    assert out_channels(parse("3x3g | 3x3g5 15"), 10) == 25


@pytest.mark.parametrize("row", ["3x3g4 8", "3x3g5 8"])
def test_groups_divide_the_channels(row):
    with pytest.raises(ZooError, match=rf"row '{row}': . groups must divide 10 inputs and 8 outputs"):
        out_channels(parse(row), 10)


@pytest.mark.parametrize(
    ("row", "before", "after"),
    [
        ("7x7/2 8", 224, 112),
        ("7x7/2s 8", 224, 112),
        ("7x7/2s 8", 7, 4),
        ("2x2/2s 8", 7, 4),
        ("max/2s", 8, 4),
        ("max/2c", 112, 56),
        ("max/2c", 7, 3),
        ("max/2", 7, 4),
        ("3x3/2v 8", 299, 149),
        ("1x7 8", 17, 17),
        ("3x3d2 8", 17, 17),
        ("2x2d2 8", 17, 17),
        ("3x3vd2 8", 17, 13),
        ("3x3/2sd2g", 8, 4),
    ],
)
def test_sizes(row, before, after):
    assert out_size(parse(row), (before, before)) == (after, after)


@pytest.mark.parametrize("kernel", ["1x1", "2x2", "3x3", "5x3", "4x4"])
@pytest.mark.parametrize("step", ["", "/2", "/3", "/4"])
@pytest.mark.parametrize("edge", ["v", "c"])
def test_pools_have_pytorchs_sizes(kernel, step, edge):
    """Ceil mode as in PyTorch: a window may reach over the edge, even the only one, but must start on the grid."""
    row = parse(f"max{kernel}{step}{edge}")
    pool = torch.nn.MaxPool2d(row[0][0].kernel, row[0][0].stride, ceil_mode=edge == "c")
    for size in itertools.product(range(1, 10), range(1, 10)):
        try:
            expected = tuple(pool(torch.empty(1, 1, *size, device="meta")).shape[2:])
        except RuntimeError:
            with pytest.raises(ZooError, match=f"the {size[0]}x{size[1]} grid is smaller than the kernel"):
                out_size(row, size)
            continue
        assert out_size(row, size) == expected


def test_a_grid_smaller_than_its_kernel_is_an_error():
    with pytest.raises(ZooError, match="2x2 grid is smaller than the kernel of 'max/2v'"):
        out_size(parse("max/2v"), (2, 2))
    with pytest.raises(ZooError, match="fork"):
        out_size(parse("3x3v 4 | 1x1 4"), (8, 8))


def test_width_rounds_to_multiples_of_eight():
    assert show(scale_width(parse("1x1 48 > 5x5 64 > avg"), 0.5)) == "1x1 24 > 5x5 32 > avg"
    assert show(scale_width(parse("1x1 16"), 0.25)) == "1x1 8"
