from .compensation import compensate as compensate
from .compensation import repair as repair
from .layer_repair import LayerRepair as LayerRepair
from .options import REPAIRS as REPAIRS
from .options import Repair as Repair
from .reestimation import reestimate as reestimate
