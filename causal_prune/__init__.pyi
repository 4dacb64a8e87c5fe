"""The public names and where they live; `__init__.py` reads this table when a name is first used."""

from .compensation import compensate as compensate
from .data import Data as Data
from .data import Task as Task
from .data import regression_task as regression_task
from .errors import CausalPruneError as CausalPruneError
from .errors import CausalPruneWarning as CausalPruneWarning
from .errors import InputError as InputError
from .errors import ParityError as ParityError
from .errors import TargetError as TargetError
from .explanation import CausalCNNExplainer as CausalCNNExplainer
from .fine_tuning import fine_tune as fine_tune
from .importance import FilterScores as FilterScores
from .importance import score as score
from .observation import FilterMoments as FilterMoments
from .observation import observe as observe
from .onnx_files import export_onnx as export_onnx
from .pipeline import Compressed as Compressed
from .pipeline import Options as Options
from .pipeline import compress as compress
from .planning import plan as plan
from .surgery import PruningPlan as PruningPlan
from .surgery import load as load
from .surgery import remove as remove
from .surgery import zero as zero
from .tracing import FilterGraph as FilterGraph
from .tracing import trace as trace
