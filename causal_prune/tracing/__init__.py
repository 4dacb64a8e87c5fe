"""What can be cut together, who reads whom, what is frozen and why: found by labels, proved by trial cuts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
