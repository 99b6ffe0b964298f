"""Picture of a network, from bottom to top as in the papers: its endpoints in a column, its blocks in detail beside them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from inception_zoo.architecture.cost import plan_cost
from inception_zoo.architecture.notation import LRN, Conv, Depthwise, Layer, Module, Op, Pool, show
from inception_zoo.architecture.plan import Block, Plan
from inception_zoo.errors import ZooError
from inception_zoo.system.atomic_files import check_file, whole_file

# Lengths are in points (1/72 inch).
OP, GAP, STEP = (58, 27), 9, 16  # minimum width and height of an op; gap between branches; gap between the ops of a chain
SPINE, LINE, BAR = 262, 24, 18  # width and height of an endpoint's box; height of "input" and "filter concat"
MARGIN, PAD = 26, 20
INK, ACCENT = "#263238", "#d84315"
ROUND = "round,pad=0,rounding_size=4"
ARROW = {"arrowstyle": "-|>,head_length=0.28,head_width=0.13", "color": INK, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
BANDS = ("#f4f6f8", "#eaf0f6")
COLORS = {
    "1×1": "#bbdefb",
    "n×n": "#ffe0a3",
    "1×n, n×1": "#c8e6c9",
    "pool": "#f8c8d0",
    "lrn": "#e1d5f0",
    "concat": "#cfd8dc",
    "plain": "#ffffff",
}


def check_picture(path: Path) -> None:
    """Check that a picture can be written to `path`.

    Raises:
        ZooError: the suffix is not .svg or .png, or the folder does not exist.
    """
    if path.suffix not in (".svg", ".png"):
        raise ZooError(f"--draw {path}: the name must end in .svg or .png")
    check_file(f"--draw {path}", path)


def draw_network(plan: Plan, image_size: int, path: Path) -> None:
    """Write the picture of a network with images of `image_size` pixels to `path` (.svg or .png)."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": plan.net.name}):
        figure = network_figure(plan, image_size)
        with whole_file(path) as temporary:
            figure.savefig(temporary, dpi=144, metadata={"Date": None} if path.suffix == ".svg" else None)


def network_figure(plan: Plan, image_size: int) -> Any:
    """Return the picture of a network with images of `image_size` pixels, as a matplotlib figure."""
    shapes = plan.shapes(image_size)
    stages = list(dict.fromkeys(block.stage for block in plan.blocks))
    bands = [_Band(plan, stage, shapes) for stage in stages]
    left = MARGIN + (150 if plan.aux else 56)
    width = max(left + SPINE + PAD + max(band.panels_width for band in bands), left + SPINE + 430) + MARGIN
    height = sum(band.height for band in bands) + 2 * LINE + 2 * MARGIN + PAD + 58
    canvas = _Canvas(width, height)
    y: float = MARGIN
    canvas.box(left, y, SPINE, LINE, f"input   {image_size}×{image_size}×{plan.in_channels}", COLORS["plain"])
    top = left + SPINE / 2, y + LINE
    y += LINE + PAD / 2
    for number, band in enumerate(bands):
        canvas.rectangle(MARGIN / 2, y, width - MARGIN, band.height, BANDS[number % 2])
        canvas.text(MARGIN / 2 + 8, y + band.height - 14, band.stage, size=10, weight="bold", align="left", color="#78909c")
        top = band.draw(canvas, left, y, top)
        y += band.height
    y += PAD / 2
    dropout = f"   dropout {plan.choices.dropout:g}" if plan.choices.dropout else ""
    embedding = f"   embedding {plan.embedding}" if plan.embedding else ""
    classes = f"   fc {plan.num_classes}" if plan.num_classes else ""
    canvas.box(left, y, SPINE, LINE, f"average pool{dropout}{embedding}{classes}", COLORS["plain"])
    canvas.arrow(*top, left + SPINE / 2, y)
    _title(canvas, plan, image_size, height)
    return canvas.figure


def _title(canvas: "_Canvas", plan: Plan, image_size: int, height: float) -> None:
    y, cost = height - 26, plan_cost(plan, image_size)
    canvas.text(MARGIN, y, plan.net.name, size=17, weight="bold", align="left")
    heads = " with auxiliary heads" if plan.aux else ""
    facts = f"{cost.params / 1e6:.2f} M parameters{heads}, {cost.macs / 1e9:.2f} G multiply-adds at {image_size} px"
    canvas.text(MARGIN, y - 20, facts, size=9.5, align="left")
    if plan.swapped:
        canvas.text(MARGIN, y - 36, f"swapped: {plan.swapped}", size=9.5, align="left", color=ACCENT, weight="bold")
    x = canvas.width - MARGIN
    for label, color in reversed(list(COLORS.items())[:4]):
        x -= 66
        canvas.box(x, y - 6, 60, 16, label, color, size=7.5)


class _Band:
    """One stage: its endpoints, and a panel for each kind of block in it."""

    def __init__(self, plan: Plan, stage: str, shapes: dict[str, tuple[int, int, int]]) -> None:
        self.plan, self.stage, self.shapes = plan, stage, shapes
        blocks = [block for block in plan.blocks if block.stage == stage]
        self.runs = [list(run) for _, run in groupby(blocks, _identity)]
        kinds: dict[Any, list[Block]] = {}
        for block in blocks:
            if _has_panel(block):
                kinds.setdefault(_structure(block), []).append(block)
        self.panels = [_Panel(same) for same in kinds.values()]
        self.panels_width = sum(panel.width + PAD for panel in self.panels)
        spine = len(self.runs) * (LINE + STEP / 2)
        self.height = max([spine, *(panel.height for panel in self.panels)]) + PAD + 8

    def draw(self, canvas: "_Canvas", left: float, y: float, top: tuple[float, float]) -> tuple[float, float]:
        """Draw the band from height `y` up. The arrow to it starts at `top`; return the start of the arrow to the next band."""
        space = (self.height - len(self.runs) * LINE) / (len(self.runs) + 1)
        at = y + space
        for run in self.runs:
            channels, height, width = self.shapes[run[-1].name]
            row = "" if _has_panel(run[0]) else "  " + show(run[0].rows[0])
            canvas.box(left, at, SPINE, LINE, "", COLORS["plain"], swapped=any(block.swapped for block in run))
            canvas.text(left + 8, at + LINE / 2, _names(run), size=8.5, weight="bold", align="left")
            offset = 8 + 5.6 * len(_names(run))
            canvas.text(left + offset, at + LINE / 2, row, size=8, align="left", color="#546e7a")
            canvas.text(left + SPINE - 8, at + LINE / 2, f"{height}×{width}×{channels}", size=8.5, align="right")
            canvas.arrow(*top, left + SPINE / 2, at)
            for block in run:
                if block.name in self.plan.aux:
                    self._aux(canvas, left, at, block.name)
            top = left + SPINE / 2, at + LINE
            at += LINE + space
        x = left + SPINE + PAD
        for panel in self.panels:
            panel.draw(canvas, x, y + (self.height - panel.height) / 2)
            x += panel.width + PAD
        return top

    def _aux(self, canvas: "_Canvas", left: float, at: float, tap: str) -> None:
        head = self.plan.aux[tap]
        layers = [f"pool {head.grid}×{head.grid}", *head.rows, *([f"fc {head.hidden}"] if head.hidden else [])]
        text = "auxiliary head\n" + " > ".join(layers[:2]) + "\n> " + " > ".join([*layers[2:], f"fc {self.plan.num_classes}"])
        canvas.box(left - 146, at - 9, 128, LINE + 18, text, "#fff8e1", size=7)
        canvas.arrow(left, at + LINE / 2, left - 18, at + LINE / 2)


@dataclass
class _Step:
    """The parallel ops of one step of a chain, each with a label of one or two lines."""

    ops: Sequence[Op]
    labels: Sequence[str]

    @property
    def width(self) -> float:
        longest = max(len(line) for label in self.labels for line in label.split("\n"))
        return max(OP[0], 4.7 * longest + 10)


class _Panel:
    """One kind of block with its branches side by side; `blocks` differ only in their widths."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.block = blocks[0]
        self.title = _names(blocks) + (f"   {self.block.swapped}" if self.block.swapped else "")
        chains = list(zip(*(block.rows for block in blocks), strict=True))  # per branch: its row in every block
        self.branches = [[_step(steps) for steps in zip(*rows, strict=True)] for rows in chains]
        self.widths = [max(len(s.ops) * (s.width + GAP) - GAP for s in branch) for branch in self.branches]
        self.inputs, self.outputs = _list(b.c_in for b in blocks), _list(b.c_out for b in blocks)
        self.joined = _list(b.joined for b in blocks)
        self.side = 72 if self.block.residual else 0  # space for the shortcut
        inner = sum(self.widths) + GAP * (len(self.widths) - 1)
        self.width = max(inner + self.side + 2 * GAP, 5.8 * len(self.title) + 2 * GAP)
        self.inner = self.width - self.side - 2 * GAP
        longest = max(len(branch) for branch in self.branches)
        above = 0  # the concatenation
        if self.block.residual:
            above = 47 + (STEP + OP[1] if self.block.residual.project else 0)
        self.height = 24 + 2 * BAR + 2 * GAP + longest * (OP[1] + STEP) + STEP + above

    def draw(self, canvas: "_Canvas", left: float, bottom: float) -> None:
        marked = self.block.swapped is not None
        edge = ACCENT if marked else "#90a4ae"
        canvas.rectangle(left, bottom, self.width, self.height, "#ffffff", edge, 1.8 if marked else 0.8)
        top = bottom + self.height
        canvas.text(left + GAP, top - 11, self.title, size=9, weight="bold", align="left", color=ACCENT if marked else INK)
        x0, base = left + GAP + self.side, bottom + GAP
        canvas.box(left + GAP, base, self.width - 2 * GAP, BAR, f"input   {self.inputs}", COLORS["plain"])
        ground = base + BAR
        roof = ground + max(len(branch) for branch in self.branches) * (OP[1] + STEP) + STEP
        spare = (self.inner - sum(self.widths) - GAP * (len(self.widths) - 1)) / (len(self.widths) + 1)
        x = x0 + spare
        for branch, width in zip(self.branches, self.widths, strict=True):
            self._branch(canvas, branch, x + width / 2, ground, roof)
            x += width + GAP + spare
        joins = len(self.branches) > 1 or len(self.branches[0][-1].ops) > 1
        label = f"filter concat   {self.joined}" if joins else self.joined
        canvas.box(x0, roof, self.inner, BAR, label, COLORS["concat"])
        if self.block.residual:
            self._sum(canvas, x0 + self.inner / 2, left + GAP + self.side / 2 - 4, ground, roof + BAR)

    def _branch(self, canvas: "_Canvas", branch: Sequence[_Step], center: float, ground: float, roof: float) -> None:
        below, y = [(center, ground)], ground + STEP
        for number, step in enumerate(branch):
            left = center - (len(step.ops) * (step.width + GAP) - GAP) / 2
            centers = [left + i * (step.width + GAP) + step.width / 2 for i in range(len(step.ops))]
            for at, op, label in zip(centers, step.ops, step.labels, strict=True):
                canvas.box(at - step.width / 2, y, step.width, OP[1], label, COLORS[_color(op)], size=7.8)
                for start in below:
                    canvas.arrow(at if number == 0 else start[0], start[1], at, y)
            below, y = [(at, y + OP[1]) for at in centers], y + OP[1] + STEP
        for start in below:
            canvas.arrow(*start, start[0], roof)

    def _sum(self, canvas: "_Canvas", center: float, side: float, ground: float, roof: float) -> None:
        residual = self.block.residual
        assert residual
        y = roof + 19
        if residual.project:
            canvas.box(center - 50, roof + STEP, 100, OP[1], f"1×1 linear\n{self.outputs}", COLORS["1×1"], size=7.8)
            canvas.arrow(center, roof, center, roof + STEP)
            y += STEP + OP[1]
        canvas.circle(center, y, 8, "+")
        if residual.project or residual.scale != 1:
            canvas.text(center + 6, y - 13, f"× {residual.scale:g}", size=7.8, align="left")
        canvas.arrow(center, y - 19, center, y - 8)
        canvas.line([(side, ground), (side, y), (center - 12, y)])
        canvas.arrow(center - 12, y, center - 8, y)
        if shortcut := self.block.shortcut:
            label = _label([shortcut]).split("\n")[0] + f"\n{self.outputs}"
            canvas.box(side - 29, (ground + roof) / 2 - OP[1] / 2, OP[0], OP[1], label, COLORS["1×1"], size=7)
        canvas.arrow(center, y + 8, center, y + 20)
        if residual.relu:
            canvas.text(center + 6, y + 14, "activation", size=7.8, align="left")


class _Canvas:
    """A page in points, with the origin at the bottom left."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.width = width
        self.figure = Figure(figsize=(width / 72, height / 72), facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.axis("off")

    def rectangle(self, x: float, y: float, w: float, h: float, face: str, edge: str = "none", width: float = 0.8) -> Any:
        from matplotlib.patches import FancyBboxPatch

        return self.axes.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=ROUND, fc=face, ec=edge, lw=width))

    def box(
        self, x: float, y: float, w: float, h: float, label: str, face: str, size: float = 8.5, swapped: bool = False
    ) -> None:
        edge, width = (ACCENT, 1.6) if swapped else (INK, 0.8)
        self.rectangle(x, y, w, h, face, edge, width).set_zorder(3)  # above the lines
        self.text(x + w / 2, y + h / 2, label, size=size)

    def text(
        self, x: float, y: float, label: str, size: float, weight: str = "normal", align: str = "center", color: str = INK
    ) -> None:
        style: dict[str, Any] = {"fontsize": size, "fontweight": weight, "ha": align, "color": color}
        self.axes.text(x, y, label, va="center", linespacing=1.15, zorder=4, **style)

    def circle(self, x: float, y: float, radius: float, label: str) -> None:
        from matplotlib.patches import Circle

        self.axes.add_patch(Circle((x, y), radius, facecolor=COLORS["concat"], edgecolor=INK, linewidth=0.8))
        self.text(x, y, label, size=11)

    def line(self, points: Sequence[tuple[float, float]]) -> None:
        self.axes.plot(*zip(*points, strict=True), color=INK, linewidth=0.8, solid_joinstyle="round")

    def arrow(self, x: float, y: float, to_x: float, to_y: float) -> None:
        self.axes.annotate("", (to_x, to_y), (x, y), arrowprops=ARROW)


def _has_panel(block: Block) -> bool:
    return block.has_branches or len(block.rows[0]) > 2  # a short chain is written into its endpoint's box


def _identity(block: Block) -> tuple[Any, ...]:
    """Return a key; neighbouring blocks with equal keys share one box."""
    return block.rows, block.c_in, block.c_out, _structure(block)


def _structure(block: Block) -> tuple[Any, ...]:
    """Return a key that is equal for blocks that differ only in their widths."""
    rows = tuple(
        tuple(tuple(replace(op, width=1) if isinstance(op, Conv) else op for op in step) for step in row) for row in block.rows
    )
    return rows, block.residual and replace(block.residual, rows=(), drop_path=0.0), block.swapped


def _step(steps: Sequence[Any]) -> _Step:
    """Return the ops of one step, labelled with the widths of every block."""
    columns = list(zip(*steps, strict=True))
    return _Step(steps[0], [_label(ops) for ops in columns])


def _label(ops: Sequence[Op]) -> str:
    op = ops[0]
    if isinstance(op, Layer):
        return op.name
    if isinstance(op, Module):
        return f"{op.name}\n{_list(o.width for o in ops if isinstance(o, Module))}"
    size = f"{op.kernel[0]}×{op.kernel[1]}"
    how = (f" /{op.stride}" if op.stride > 1 else "") + {"v": " V", "c": " ceil", "s": " same"}.get(op.edge, "")
    how += f" dilated {op.dilation}" if op.dilation > 1 else ""
    if isinstance(op, Conv):
        how += (f" groups {op.groups}" if op.groups > 1 else "") + (" linear" if op.linear else "")
        return f"{size}{how}\n{_list(o.width for o in ops if isinstance(o, Conv))}"
    if isinstance(op, Depthwise):
        return f"{size}{how}\ndepthwise"
    assert isinstance(op, Pool)
    return f"{op.kind} {size}" + (f"\n{how.strip()}" if how else "")


def _list(numbers: Any) -> str:
    """Return the numbers joined by dots, or one number if all are equal."""
    found = list(numbers)
    return str(found[0]) if len(set(found)) == 1 else "·".join(map(str, found))


def _names(blocks: Sequence[Block]) -> str:
    names = [block.name for block in blocks]
    if len(names) > 5:
        return f"{names[0]} … {names[-1]}"
    return " · ".join([names[0], *(name.rpartition("_")[2] for name in names[1:])])


def _color(op: Op) -> str:
    if isinstance(op, Layer):
        return "lrn" if op == LRN else "plain"
    if not isinstance(op, Conv | Depthwise):
        return "plain" if isinstance(op, Module) else "pool"
    if op.kernel == (1, 1):
        return "1×1"
    return "n×n" if op.kernel[0] == op.kernel[1] else "1×n, n×1"
