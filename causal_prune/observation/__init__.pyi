from .filter_moments import FilterMoments as FilterMoments
from .filter_moments import observe as observe
from .filter_norms import FeatureMoments as FeatureMoments
from .gathering import moments_of as moments_of
