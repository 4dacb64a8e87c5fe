from .findings import layer_entries as layer_entries
from .flow import Compressed as Compressed
from .flow import compress as compress
from .options import Options as Options
from .steps import choose as choose
from .steps import recipe_of as recipe_of
