from .compensation import Method as Method
from .compensation import compensate as compensate
from .compensation import repair as repair
from .layer_repair import LayerRepair as LayerRepair
from .reestimation import reestimate as reestimate
