"""Tools for any network, by room: running it, hooks, kinds of layers, layers as matrix products, patches."""
