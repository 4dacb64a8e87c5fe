from .classification import STANDARD_TASK as STANDARD_TASK
from .data import Data as Data
from .data import Images as Images
from .data import held_out as held_out
from .data import loader as loader
from .regression import regression_task as regression_task
from .task import Task as Task
