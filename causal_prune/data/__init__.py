"""The images of a run: their splits, batches of them, and what their labels say."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
