"""A network as a table: rows and cost of every endpoint. `describe` computes the figures, the other functions print them."""

from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from inception_zoo.architecture.card import Card
from inception_zoo.architecture.cost import Cost, block_cost, classifier_cost, conv_cost, head_cost, plan_cost
from inception_zoo.architecture.geometry import Field, receptive_field
from inception_zoo.architecture.notation import show
from inception_zoo.architecture.plan import Block, Plan


def describe(plan: Plan, image_size: int, card: Card | None = None) -> dict[str, Any]:
    """Return every figure of a network, as dicts, lists and numbers.

    `params` and `macs` are numbers of parameters and of multiply-adds per image. `saved` is the bytes per image that
    autograd saves for the backward pass (fp32). `field` is the receptive field, height and width in pixels; None behind a
    user's module, which can have any. For a block with branches, `conv3x3` and `conv5x5` are the cost of a single convolution
    with the block's channels, stride and grid.

    Args:
        plan: plan of the network.
        image_size: pixels.
        card: card of the network's weights; None: no weights are described.
    """
    from inception_zoo.describe.saved_bytes import saved_activations  # torch

    total = plan_cost(plan, image_size)  # first: it checks the images and the user's modules
    shapes, saved = plan.shapes(image_size), saved_activations(plan, image_size)
    endpoints, grid = [], (image_size, image_size)
    field: Field | None = Field()
    for block in plan.blocks:
        channels, after = shapes[block.name][0], shapes[block.name][1:]
        field = receptive_field(block.rows, field)
        endpoints.append(
            {
                "stage": block.stage,
                "name": block.name,
                "swapped": block.swapped,
                "output": [channels, *after],
                "rows": [show(row) for row in block.rows],
                "residual": _residual(block),
                **_cost(block_cost(plan, block, grid)),
                "saved": saved[block.name],
                "field": list(field.size) if field else None,
                **({f"conv{k}x{k}": _cost(conv_cost(plan, block, k, after)) for k in (3, 5)} if block.has_branches else {}),
            }
        )
        grid = after
    heads: dict[str, dict[str, Any]] = {
        tap: {"rows": list(head.rows), "hidden": head.hidden, "weight": head.weight}
        | _cost(head_cost(plan, head, shapes[tap][0]))
        | {"saved": saved[f"aux {tap}"]}
        for tap, head in plan.aux.items()
    }
    without_heads = total.params - sum(head["params"] for head in heads.values())
    return {
        "name": plan.net.name,
        "source": plan.net.source,
        "error": plan.net.error,
        "image_size": image_size,
        "num_classes": plan.num_classes,
        "embedding": plan.embedding,
        "swapped": plan.swapped,
        "weights": None if card is None else {key: value for key, value in card.plain().items() if key != "model"},
        "endpoints": endpoints,
        "aux": heads,
        "classifier": _cost(classifier_cost(plan)) | {"saved": saved["classifier"]},
        "total": {
            "params": without_heads,
            "params_with_aux": total.params,
            "macs": total.macs,
            "saved": sum(size for part, size in saved.items() if not part.startswith("aux ")),
            "saved_with_aux": sum(saved.values()),
        },
    }


def _cost(cost: Cost) -> dict[str, int]:
    return {"params": cost.params, "macs": cost.macs}


def _residual(block: Block) -> dict[str, Any] | None:
    if (r := block.residual) is None:
        return None
    return {"scale": r.scale, "relu": r.relu, "shortcut": r.shortcut, "project": r.project, "drop_path": r.drop_path}


def network_table(network: dict[str, Any], width: int) -> Table:
    """Return the table of one network, endpoint by endpoint.

    Args:
        network: result of `describe`.
        width: columns of the output; from 100 on, there is room for the single convolutions.
    """
    caption = (
        "saved: memory per image that PyTorch's own operators save for the backward pass (fp32), without model.memory. "
        "field: receptive field; ?: unknown behind a module of your own. one 3x3, one 5x5 (from 100 columns on): parameters / "
        "multiply-adds of a single convolution with the same channels, stride and grid. *: swapped block."
    )
    table = Table(title=_title(network), caption=caption, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    table.pad_edge, table.padding = False, (0, 1, 0, 0)
    table.add_column("endpoint", no_wrap=True)
    table.add_column("output", no_wrap=True)
    table.add_column("rows", overflow="fold", ratio=1)
    kernels = (3, 5) if width >= 100 else ()
    for column in ("params\nM", "mult-adds\nM", "saved\nMiB", "field\npx", *(f"one {k}x{k}\nM / M" for k in kernels)):
        table.add_column(column, justify="right", no_wrap=True)
    stage = network["endpoints"][0]["stage"]
    for endpoint, rows in _with_rows(network):
        if endpoint["stage"] != stage:
            stage = endpoint["stage"]
            table.add_section()
        field = "x".join(map(str, dict.fromkeys(endpoint["field"] or "?")))
        convs = [f"{_millions(c)} / {c['macs'] / 1e6:,.0f}" if (c := endpoint.get(f"conv{k}x{k}")) else "" for k in kernels]
        table.add_row(_marked(endpoint), _grid(endpoint), rows, *_figures(endpoint), field, *convs)
    table.add_section()
    for tap, head in network["aux"].items():
        layers = [*head["rows"], *([f"fc {head['hidden']}"] if head["hidden"] else []), f"fc {network['num_classes']}"]
        table.add_row(f"aux {tap}", "", " > ".join(layers), *_figures(head))
    embedding = f" > embedding {network['embedding']}" if network["embedding"] else ""
    classes = f" > fc {network['num_classes']}" if network["num_classes"] else ""
    table.add_row("classifier", "", f"average pool{embedding}{classes}", *_figures(network["classifier"]))
    total = network["total"]
    table.add_row("[bold]total", "", "", f"[bold]{_millions(total)}", f"[bold]{total['macs'] / 1e6:,.1f}", _mib(total["saved"]))
    if network["aux"]:
        with_aux = f"{total['params_with_aux'] / 1e6:.3f}"
        table.add_row("total with aux", "", "", with_aux, "", _mib(total["saved_with_aux"]))
    return table


def weights_table(weights: dict[str, Any]) -> Table:
    """Return the table of a network's weights: provenance, preprocessing and classes.

    Args:
        weights: the value of `weights` in a result of `describe`.
    """
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False, title="weights", title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    provenance = weights["provenance"] or {"source": "trained from random weights"}
    while provenance:
        for key in ("source", "layout", "url", "sha256", "licence"):
            if provenance.get(key):
                table.add_row(key, escape(str(provenance[key])))
        if accuracy := provenance.get("accuracy"):
            table.add_row("published", ", ".join(f"{key} {value} %" for key, value in accuracy.items()))
        for note in provenance.get("notes", ()):
            table.add_row("note", escape(note))
        if provenance := provenance.get("origin"):
            table.add_row("[bold]origin of these weights", "")
    if p := weights["preprocessing"]:
        table.add_row("images", f"shorter side {p['resize']} px ({p['interpolation']}), centre crop {p['image_size']} px")
        table.add_row("normalized", f"mean {p['mean']}, std {p['std']}")
    if classes := weights["classes"]:
        names = ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")
        table.add_row("classes", escape(f"{len(classes)}: {names}"))
    return table


def diff_table(a: dict[str, Any], b: dict[str, Any]) -> Table:
    """Return the table of two networks side by side, stage by stage; equal endpoints are dim.

    Args:
        a: result of `describe` for the left side.
        b: result of `describe` for the right side.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for network in (a, b):
        table.add_column(_title(network, "\n"), overflow="fold", ratio=3)
        table.add_column("params\nM", justify="right", no_wrap=True)
        table.add_column("mult-adds\nM", justify="right", no_wrap=True)
    stages = list(dict.fromkeys(e["stage"] for e in a["endpoints"])), list(dict.fromkeys(e["stage"] for e in b["endpoints"]))
    left, right = list(_with_rows(a)), list(_with_rows(b))
    for stage_a, stage_b in zip_longest(*stages):
        sides = [e for e in left if e[0]["stage"] == stage_a], [e for e in right if e[0]["stage"] == stage_b]
        for one, other in _aligned(*sides):
            same = one and other and all(one[0][k] == other[0][k] for k in ("rows", "residual", "output", "macs"))
            table.add_row(*_side(one), *_side(other), style="dim" if same else None)
        table.add_section()
    for label, key, unit in (
        ("parameters, M", "params", 1e6),
        ("multiply-adds, M", "macs", 1e6),
        ("saved, MiB", "saved", 2**20),
    ):
        one, other = a["total"][key] / unit, b["total"][key] / unit
        table.add_row(f"[bold]{label}", "", f"{one:,.1f}", f"[bold]x {other / one:.2f}", "", f"{other:,.1f}")
    return table


def _aligned(left: list[Any], right: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield pairs of one stage's endpoints: matched by name if any name is shared, else by position."""
    names = [e["name"] for e, _ in left], [e["name"] for e, _ in right]
    if not set(names[0]) & set(names[1]):
        names = [str(i) for i in range(len(left))], [str(i) for i in range(len(right))]
    for _, i, i_end, j, j_end in SequenceMatcher(None, *names, autojunk=False).get_opcodes():
        for step in range(max(i_end - i, j_end - j)):
            yield left[i + step] if i + step < i_end else None, right[j + step] if j + step < j_end else None


def _side(pair: Any) -> tuple[str, str, str]:
    if pair is None:
        return "", "", ""
    endpoint, rows = pair
    return f"{_marked(endpoint)}  {_grid(endpoint)}\n{rows}", *_figures(endpoint)[:2]


def _with_rows(network: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each endpoint with the text of its rows, or "same as NAME" if an earlier endpoint has the same rows."""
    known: dict[str, str] = {}
    for endpoint in network["endpoints"]:
        text = escape("\n".join(endpoint["rows"]))
        if residual := endpoint["residual"]:
            steps = [f"projected to {endpoint['output'][0]}"] if residual["project"] else []
            steps += [f"x {residual['scale']:g}"] if residual["project"] or residual["scale"] != 1 else []
            text += "\n[italic]" + ", ".join([*steps, "added"]) + (" to the projected input" if residual["shortcut"] else "")
            text += "" if residual["relu"] else ", no activation"
            text += f"; drop path {residual['drop_path']:.0%}" if residual["drop_path"] else ""
            text += "[/]"
        yield endpoint, f"same as {known[text]}" if text in known and "\n" in text else text
        known.setdefault(text, endpoint["name"])


def _title(network: dict[str, Any], separator: str = ", ") -> str:
    swapped = f"{separator}{escape(network['swapped'])}" if network["swapped"] else ""
    return f"{network['name']} at {network['image_size']} px{swapped}"


def _marked(endpoint: dict[str, Any]) -> str:
    return f"[bold yellow]{endpoint['name']} *[/]" if endpoint["swapped"] else endpoint["name"]


def _grid(endpoint: dict[str, Any]) -> str:
    channels, height, width = endpoint["output"]
    return f"{channels} x {height}x{width}"


def _figures(part: dict[str, Any]) -> tuple[str, str, str]:
    return _millions(part), f"{part['macs'] / 1e6:,.1f}", _mib(part["saved"])


def _millions(part: dict[str, Any]) -> str:
    return f"{part['params'] / 1e6:.3f}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.2f}"
