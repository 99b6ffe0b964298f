"""`inception-zoo list`: list the networks and the block variants."""

from typing import Any

from rich import box
from rich.table import Table

from inception_zoo.architecture.choices import VALID
from inception_zoo.architecture.cost import plan_cost
from inception_zoo.architecture.nets import ALIASES, ZOO
from inception_zoo.architecture.nets.table import Net
from inception_zoo.architecture.plan import make_plan
from inception_zoo.architecture.reductions import REDUCTIONS
from inception_zoo.architecture.variants import BLOCKS
from inception_zoo.cli.option_types import JSON
from inception_zoo.system.terminal import console, tell_json


def list_networks(as_json: JSON = False) -> None:
    """List the networks with their cost and smallest input, and the block variants that can be swapped in."""
    networks = list(map(_summary, ZOO.values()))
    variants = {name: variant.__doc__ or "" for name, variant in (BLOCKS | REDUCTIONS).items()}
    if as_json:
        tell_json({"networks": networks, "variants": variants})
        return
    caption = (
        "error: published top-1 / top-5 on ImageNet, single crop. params: for 1000 classes, without and with auxiliary heads. "
        "mult-adds: at the usual input of px pixels. min px: smallest input with stem=imagenet / medium / small."
    )
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("network", "error\n%", "params\nM", "+ aux\nM", "mult-\nadds, G", "px", "min px"):
        table.add_column(column, justify="left" if column == "network" else "right", overflow="fold")
    for net in networks:
        sizes = net["image_sizes"].values()
        gaps = not all(each.endswith("or more") for each in sizes)
        if gaps:
            table.caption = f"{table.caption} * {net['name']}: only {' / '.join(sizes)}."
        aux = f"{net['params_with_aux'] / 1e6:.2f}" if net["aux"] else "–"
        costs = f"{net['params'] / 1e6:.2f}", aux, f"{net['macs'] / 1e9:.2f}"
        smallest = "/".join(map(str, net["min_image_size"].values())) + "*" * gaps
        table.add_row(net["name"], net["error"], *costs, str(net["image_size"]), smallest)
    console(128).print(table)
    table = Table(box=box.SIMPLE_HEAD, caption="for blocks.<endpoint, stage or all>", caption_justify="left", pad_edge=False)
    table.add_column("variant", no_wrap=True)
    table.add_column("description")
    for name, doc in variants.items():
        table.add_row(name, doc)
    console(128).print(table)


def _summary(net: Net) -> dict[str, Any]:
    cost = plan_cost(make_plan(net, aux=False))
    plans = {stem: make_plan(net, stem=stem) for stem in VALID["stem"]}
    return {
        "name": net.name,
        "aliases": [alias for alias, name in ALIASES.items() if name == net.name],
        "source": net.source,
        "error": net.error,
        "params": cost.params,
        "params_with_aux": plan_cost(make_plan(net)).params,
        "macs": cost.macs,
        "aux": list(net.aux),
        "image_size": net.image_size,
        "min_image_size": {stem: plan.min_image_size() for stem, plan in plans.items()},
        "image_sizes": {stem: plan.sizes() for stem, plan in plans.items()},
    }
