"""The whole flow: a trained network and its data in, a smaller network and its report out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
