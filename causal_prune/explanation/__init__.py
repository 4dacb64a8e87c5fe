"""What a network looks at: the documented class, what it reads and what it draws."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
