from .entry import entry_point as entry_point
