"""Which units go: how many of every group for a target, and which of them."""
