"""Grad-CAM (arXiv 1610.02391) for a block and for each of its branches."""

from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from inception_zoo.architecture.choices import ALIKE
from inception_zoo.architecture.notation import show
from inception_zoo.architecture.preprocessing import Preprocessing
from inception_zoo.data.pixels import denormalize
from inception_zoo.errors import ZooError, check_installed, did_you_mean
from inception_zoo.network.blocks import Concat, ResidualBlock
from inception_zoo.network.inception import Inception
from inception_zoo.system.atomic_files import whole_file


@dataclass(frozen=True)
class Look:
    """Grad-CAM of a block or a branch."""

    name: str
    evidence: Tensor  # (h, w), the block's grid; zero where nothing supports the class
    share: float  # sum of `evidence`, divided by the sum over all branches; 1 for the block


def check_endpoint(model: Inception, endpoint: str | None) -> str:
    """Return the endpoint to explain: `endpoint`, or by default the last one with branches or with a user's module.

    Raises:
        ZooError: `endpoint` is unknown or has no branches, or no endpoint has branches.
    """
    branched = [b.name for b in model.plan.blocks if b.module or (b.has_branches and len(b.rows) > 1)]
    if not branched:
        raise ZooError(f"{model.plan.net.name} has no block with branches to explain")
    if endpoint is not None and endpoint not in branched:
        raise ZooError(f"--layer {endpoint} is not an endpoint with branches; {did_you_mean(endpoint, branched, ALIKE)}")
    return endpoint or branched[-1]


def look(model: Inception, image: Tensor, label: int, endpoint: str) -> list[Look]:
    """Compute Grad-CAM for the logit of a class, for a block and for each of its branches.

    Grad-CAM of a branch uses only the branch's channels: ``relu(sum over channels of mean(gradient) * activation)``. The values
    of the branches of a block have the same scale and can be compared.

    Args:
        model: The network, in evaluation mode.
        image: Normalized image, float (C, S, S).
        label: Index of the class.
        endpoint: The block, see `check_endpoint`.

    Returns:
        The block, then its branches, which a user's module does not have; each with `evidence` (h, w).

    Source:
        arXiv 1610.02391.
    """
    from captum.attr import LayerGradCam

    block = model.get_submodule(endpoint)
    concat = block.concat if isinstance(block, ResidualBlock) else block
    rows = next(found.rows for found in model.plan.blocks if found.name == endpoint)
    branches = list(concat) if isinstance(concat, Concat) else []  # a user's module has none
    names, modules = ["whole block", *map(show, rows if branches else ())], [block, *branches]
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
    """Save a picture of the result of `look`: the network's input, and the heat maps drawn over it.

    Args:
        model: The network, in evaluation mode.
        preprocessing: The preprocessing of `image`, which the picture reverses.
        image: Normalized image, float (C, S, S).
        title: Start of the heading; the network and the endpoint follow it.
        endpoint: The block, see `check_endpoint`.
        label: Index of the class to explain.
        target: File to write.
    """
    from matplotlib.figure import Figure

    looks = look(model, image, label, endpoint)
    shown = denormalize(image.detach(), preprocessing).expand(3, -1, -1).permute(1, 2, 0).numpy()  # (H, W, 3), 0 to 1
    columns = len(looks) + 1
    figure = Figure(figsize=(2.1 * columns, 3.0), layout="constrained", dpi=150)
    above = f"{title}   ·   {model.plan.net.name} {endpoint}"
    figure.suptitle(above, fontsize=11, fontweight="bold", x=0.01, ha="left", parse_math=False)
    top = max((float(found.evidence.max()) for found in looks[1:]), default=0.0) or 1.0
    for axes, found in zip(figure.subplots(1, columns), [None, *looks], strict=True):
        axes.axis("off")
        axes.imshow(shown)
        if found is None:
            axes.set_title("network input", fontsize=8)
            continue
        scale = top if found is not looks[0] else float(found.evidence.max()) or 1.0
        heat = F.interpolate(found.evidence[None, None], size=shown.shape[:2], mode="bicubic", align_corners=False)[0, 0]
        shade = (heat / scale).clamp(0, 1).numpy()
        axes.imshow(shade, cmap="inferno", vmin=0, vmax=1, alpha=0.15 + 0.7 * shade)
        share = "" if found is looks[0] else f"\n{found.share:.0%} of the total"
        axes.set_title(f"{_folded(found.name)}{share}", fontsize=8)
    with whole_file(Path(target)) as temporary:
        figure.savefig(temporary, bbox_inches="tight", pad_inches=0.1)


def _folded(row: str) -> str:
    """Return the text of a row on several lines, with a few steps on each."""
    steps, lines = row.split(" > "), [""]
    for step in steps:
        if lines[-1] and len(lines[-1]) + len(step) > 18:
            lines.append("")
        lines[-1] += (" > " if lines[-1] else "> " if len(lines) > 1 else "") + step
    return "\n".join(lines)


def picture_paths(sources: list[Path], folder: Path) -> list[Path]:
    """Return the path of the picture for each image.

    Its name is the stem of the image, followed by a number if another picture or one of the images already has that name.

    Args:
        sources: The images.
        folder: Folder of the pictures.
    """
    taken = {source.resolve() for source in sources}
    found = []
    for source in sources:
        names = chain([f"{source.stem}.png"], (f"{source.stem}-{number}.png" for number in count(2)))
        free = next(folder / name for name in names if (folder / name).resolve() not in taken)
        taken.add(free.resolve())
        found.append(free)
    return found


def check_explain(network: str, folder: Path | None, layer: str | None) -> None:
    """Check the options of `--explain` before the network is read.

    Args:
        network: Path of the network.
        folder: Folder of the pictures; None: explain nothing.
        layer: Endpoint to explain.

    Raises:
        ZooError: `layer` is given without `folder`, the network is an ONNX file, or captum is not installed.
    """
    if layer is not None and folder is None:
        raise ZooError(f"--layer {layer} requires --explain FOLDER")
    if folder is None:
        return
    if Path(network).suffix == ".onnx":
        raise ZooError("--explain needs access to the layers, which an ONNX file does not give; use a checkpoint or weights")
    check_installed("captum", "explain", "--explain")
