"""Plan → `nn.Module`: the network, its blocks, and how training saves activations for the backward pass."""
