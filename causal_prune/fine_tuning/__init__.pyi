from .training import fine_tune as fine_tune
