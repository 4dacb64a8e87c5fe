"""Cuts made on copies: which units a plan keeps, what that asks of every layer, removed or silenced."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
