"""Initialize a network's weights."""

from torch import nn

from inception_zoo.network.blocks import DepthwiseConv


def initialize(model: nn.Module, classifiers: set[nn.Module], init: str, own: set[nn.Module]) -> None:
    """Initialize the weights, from distributions without truncation because they are faster.

    Args:
        model: The network.
        classifiers: Its layers that compute logits.
        init: `he`: normal, He et al. (arXiv 1502.01852), fan-in; gain 1 for depthwise convolutions, which no ReLU follows;
            standard deviation 0.01 for classifiers; zero biases.
            `xavier`: uniform, Glorot and Bengio with PyTorch's fans, for every weight; PyTorch's default for biases; as in
            the tutorial.
        own: The layers of a user's functions, which keep their own initialization.
    """
    for module in model.modules():
        if module in own or not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        if init == "xavier":
            nn.init.xavier_uniform_(module.weight)
            continue
        if module in classifiers:
            nn.init.normal_(module.weight, std=0.01)
        else:
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if isinstance(module, DepthwiseConv) else "relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
