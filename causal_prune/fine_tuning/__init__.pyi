from .options import Tuning as Tuning
from .training import fine_tune as fine_tune
