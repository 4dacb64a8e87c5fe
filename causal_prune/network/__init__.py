"""Ground tools for any network: running it, hooks, kinds of layers, layers as matrix products, what kernels read."""
