from .findings import layer_entries as layer_entries
from .flow import Compressed as Compressed
from .flow import compress as compress
