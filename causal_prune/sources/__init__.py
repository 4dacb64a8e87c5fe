"""What `--model`, `--weights` and `--data` may name."""

from causal_prune.sources.data import load_data
from causal_prune.sources.fits import check_fits
from causal_prune.sources.models import load_model
from causal_prune.sources.weights import load_weights

__all__ = ["check_fits", "load_data", "load_model", "load_weights"]
