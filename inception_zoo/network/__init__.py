"""Plan → `nn.Module`: the network, its blocks, and the training path, which needs less memory and time."""
