"""A network as an encoder of segmentation_models_pytorch."""

from torch import Tensor, nn

from inception_zoo.errors import ZooError
from inception_zoo.network.inception import Inception


class Encoder(nn.Module):
    """Images (N, C, H, W) → the images, and the last feature maps of each resolution, from 1/2 to 1/32.

    Args:
        model: The network; its classifier and its auxiliary heads are not used, so create it with ``num_classes=0, aux=False``.
        depth: Number of resolutions.
        output_stride: 32; segmentation_models_pytorch gives it.

    Raises:
        ZooError: The network has fewer resolutions, or another output stride is asked for.
    """

    def __init__(self, model: Inception, depth: int = 5, output_stride: int = 32) -> None:
        super().__init__()
        levels = model.feature_info
        if depth > len(levels):
            raise ZooError(f"encoder_depth={depth}: {model.plan.net.name} has {len(levels)} resolutions with this stem")
        if output_stride != 32:
            raise ZooError(f"output_stride={output_stride}: {model.plan.net.name} has no dilated convolutions; use 32")
        self.model, self.depth, self.output_stride = model, depth, levels[depth - 1]["reduction"]
        self.out_channels = [model.plan.in_channels, *(level["num_chs"] for level in levels[:depth])]

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Check the number of image channels; segmentation_models_pytorch calls this.

        Raises:
            ZooError: The network reads another number.
        """
        if in_channels != self.model.plan.in_channels:
            raise ZooError(f"in_channels={in_channels}: create the network with in_channels={in_channels}, too")

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, *self.model.pyramid(x)[: self.depth]]
