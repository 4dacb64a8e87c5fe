"""Short training of a cut network."""
