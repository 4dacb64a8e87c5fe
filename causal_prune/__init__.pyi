"""The public names and where they live; `__init__.py` reads this table when a name is first used."""

from .compensation.compensation import compensate as compensate
from .data.data import Data as Data
from .errors import CausalPruneError as CausalPruneError
from .errors import CausalPruneWarning as CausalPruneWarning
from .errors import InputError as InputError
from .errors import ParityError as ParityError
from .errors import TargetError as TargetError
from .explanation.cnn_explainer import CausalCNNExplainer as CausalCNNExplainer
from .fine_tuning.training import fine_tune as fine_tune
from .importance import FilterScores as FilterScores
from .importance import score as score
from .observation.filter_moments import FilterMoments as FilterMoments
from .observation.filter_moments import observe as observe
from .onnx_files.export import export_onnx as export_onnx
from .pipeline.flow import Compressed as Compressed
from .pipeline.flow import compress as compress
from .planning.unit_choice import plan as plan
from .surgery.pruning_plan import PruningPlan as PruningPlan
from .surgery.rebuilding import load as load
from .surgery.removal import remove as remove
from .surgery.silencing import zero as zero
from .tracing.filter_graph import FilterGraph as FilterGraph
from .tracing.network_trace import trace as trace
