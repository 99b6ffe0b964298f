"""Plan → `nn.Module`: the network, its blocks, and the training path that saves memory and time."""
