"""All patterns: networks of one pattern each, to be cut correctly or left alone."""

from tests.zoo.attention import ATTENTION
from tests.zoo.frame import Pattern
from tests.zoo.joins import JOINS
from tests.zoo.layers import LAYERS
from tests.zoo.others import OTHERS
from tests.zoo.programs import PROGRAMS

PATTERNS: tuple[Pattern, ...] = (*LAYERS, *JOINS, *ATTENTION, *PROGRAMS, *OTHERS)
