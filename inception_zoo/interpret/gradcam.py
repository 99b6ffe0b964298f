"""Grad-CAM (arXiv 1610.02391) for a block and for each of its branches."""

from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from inception_zoo.architecture.notation import show
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.data.pixels import denormalize
from inception_zoo.errors import ZooError, check_installed, did_you_mean
from inception_zoo.network.blocks import Concat, ResidualBlock
from inception_zoo.network.inception import Inception


@dataclass(frozen=True)
class Look:
    """The evidence of a part of the network: a map over the image, zero where nothing supports the class."""

    name: str
    evidence: Tensor  # (h, w) of the block's grid
    share: float  # of the evidence of all branches


def check_endpoint(model: Inception, endpoint: str | None) -> str:
    """The endpoint to explain: the last one with branches when none is given; ZooError for one that has none."""
    branched = [block.name for block in model.plan.blocks if block.has_branches and len(block.rows) > 1]
    if not branched:
        raise ZooError(f"{model.plan.net.name} has no block with branches to explain")
    if endpoint is not None and endpoint not in branched:
        raise ZooError(f"--layer {endpoint} is no endpoint with branches; {did_you_mean(endpoint, branched)}")
    return endpoint or branched[-1]


def look(model: Inception, image: Tensor, label: int, endpoint: str) -> list[Look]:
    """Grad-CAM for the logit of `label`, of the block at `endpoint` and of each of its branches.

    The map of a branch is that of its channels alone, ``relu(sum of gradient mean x activation)``; maps of the branches of one
    block have one scale.

    Args:
        model: in evaluation mode.
        image: (C, S, S), normalized.
    """
    from captum.attr import LayerGradCam

    block = model.get_submodule(endpoint)
    concat = block.concat if isinstance(block, ResidualBlock) else block
    assert isinstance(concat, Concat)
    rows = next(found.rows for found in model.plan.blocks if found.name == endpoint)
    names, modules = ["the whole block", *map(show, rows)], [block, *concat]
    maps = []
    for module in modules:
        cam = LayerGradCam(model, module).attribute(image[None].requires_grad_(), target=label, relu_attributions=True)
        maps.append(cam[0].mean(0).detach())
    total = sum(cam.sum().item() for cam in maps[1:]) or 1.0
    shares = [1.0, *(cam.sum().item() / total for cam in maps[1:])]
    return [Look(name, cam, share) for name, cam, share in zip(names, maps, shares, strict=True)]


def draw(
    model: Inception, preprocessing: Preprocessing, image: Tensor, title: str, endpoint: str, label: int, target: Path
) -> None:
    """Save a picture of `look`: the image as the network saw it, then the maps over it.

    Args:
        model: in evaluation mode.
        preprocessing: what `image` went through.
        image: (C, S, S), normalized.
        title: what stands above the picture; the network and the endpoint are added.
        endpoint: see `check_endpoint`.
        label: the class to explain.
        target: the picture's file.
    """
    from matplotlib.figure import Figure

    looks = look(model, image, label, endpoint)
    shown = denormalize(image.detach(), preprocessing).expand(3, -1, -1).permute(1, 2, 0).numpy()  # (H, W, 3), 0 to 1
    columns = len(looks) + 1
    figure = Figure(figsize=(2.1 * columns, 3.0), layout="constrained", dpi=150)
    above = f"{title}   ·   {model.plan.net.name} {endpoint}"
    figure.suptitle(above, fontsize=11, fontweight="bold", x=0.01, ha="left", parse_math=False)
    top = max(float(found.evidence.max()) for found in looks[1:]) or 1.0
    for axes, found in zip(figure.subplots(1, columns), [None, *looks], strict=True):
        axes.axis("off")
        axes.imshow(shown)
        if found is None:
            axes.set_title("as the network\nsaw it", fontsize=8)
            continue
        scale = top if found is not looks[0] else float(found.evidence.max()) or 1.0
        heat = F.interpolate(found.evidence[None, None], size=shown.shape[:2], mode="bicubic", align_corners=False)[0, 0]
        shade = (heat / scale).clamp(0, 1).numpy()
        axes.imshow(shade, cmap="inferno", vmin=0, vmax=1, alpha=0.15 + 0.7 * shade)
        share = "" if found is looks[0] else f"\n{found.share:.0%} of the evidence"
        axes.set_title(f"{_folded(found.name)}{share}", fontsize=8)
    figure.savefig(target, bbox_inches="tight", pad_inches=0.1)


def _folded(row: str) -> str:
    """A row over several lines, a few steps on each."""
    steps, lines = row.split(" > "), [""]
    for step in steps:
        if lines[-1] and len(lines[-1]) + len(step) > 18:
            lines.append("")
        lines[-1] += (" > " if lines[-1] else "> " if len(lines) > 1 else "") + step
    return "\n".join(lines)


def picture_paths(sources: list[Path], folder: Path) -> list[Path]:
    """A picture's name for every image: its stem, with a number where that is another picture's or one of the images."""
    taken = {source.resolve() for source in sources}
    found = []
    for source in sources:
        names = chain([f"{source.stem}.png"], (f"{source.stem}-{number}.png" for number in count(2)))
        free = next(folder / name for name in names if (folder / name).resolve() not in taken)
        taken.add(free.resolve())
        found.append(free)
    return found


def check_explain(network: str, folder: Path | None, layer: str | None) -> None:
    """ZooError for what can be told before the network is read."""
    if layer is not None and folder is None:
        raise ZooError(f"--layer {layer} is for --explain FOLDER")
    if folder is None:
        return
    if Path(network).suffix == ".onnx":
        raise ZooError("--explain needs the network itself, a checkpoint or weights; an ONNX file has no layers to look into")
    check_installed("captum", "explain", "--explain")
