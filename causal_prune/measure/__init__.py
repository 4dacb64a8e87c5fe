"""What a network is worth and what it costs: quality with its uncertainty, operations, latency."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
