"""Makes a trained convolutional network physically smaller and proves what that cost."""

import lazy_loader

# torch is imported only when a verb is used: `causal-prune --help` must not wait for it
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
