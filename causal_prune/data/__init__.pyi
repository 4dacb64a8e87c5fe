from .classification import check_labels as check_labels
from .classification import labels_of as labels_of
from .classification import logits_of as logits_of
from .data import Data as Data
from .data import held_out as held_out
from .data import loader as loader
