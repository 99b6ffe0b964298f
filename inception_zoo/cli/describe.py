"""`inception-zoo describe`: show a network as tables or as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from inception_zoo.cli.networks import Named, networks_of
from inception_zoo.cli.option_types import JSON, TRUST
from inception_zoo.describe.drawing import check_picture, draw_network
from inception_zoo.describe.table import describe, diff_table, network_table, weights_table
from inception_zoo.errors import ZooError
from inception_zoo.system.terminal import console, tell, tell_json


def describe_networks(
    words: Annotated[list[str], typer.Argument(metavar="NAME [KEY=VALUE]...", help="Network or file, and keys of `model`.")],
    image_size: Annotated[int | None, typer.Option(min=1, help="Pixels. Default: the network's usual input.")] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Compare two networks: A [KEY=VALUE]... B [KEY=VALUE]...")] = False,
    draw: Annotated[Path | None, typer.Option(help="Also draw the network and its blocks to this .svg or .png.")] = None,
    as_json: JSON = False,
    trust: TRUST = False,
    config_dir: Annotated[Path | None, typer.Option(help="Folder of your own configs, as for `run.py`.")] = None,
) -> None:
    """Show rows, shapes, cost and receptive field of a network at every endpoint; compare two networks; draw a picture."""
    named = networks_of(words, trust, config_dir)
    if len(named) != 1 + diff:
        raise ZooError(f"describe{' --diff' * diff} takes {1 + diff} network{'s' * diff}, not {len(named)}: {' '.join(words)}")
    if diff and draw:
        raise ZooError("--draw and --diff cannot be combined; leave one of them out")
    if draw:
        check_picture(draw)
    networks = [describe(each.plan, image_size or _usual_size(each), each.card) for each in named]
    if as_json:
        tell_json(networks if diff else networks[0])
    else:
        out = console(128, markup=True)
        out.print(diff_table(*networks) if diff else network_table(networks[0], out.width))
        for network in networks:
            if network["weights"]:
                out.print(weights_table(network["weights"]))
    if draw:
        draw_network(named[0].plan, networks[0]["image_size"], draw)
        tell(f"picture: {draw}")


def _usual_size(named: Named) -> int:
    preprocessing = named.card.preprocessing if named.card else None
    return preprocessing.image_size if preprocessing else named.plan.net.image_size
