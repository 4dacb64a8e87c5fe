from .bottleneck import InformationBottleneck as InformationBottleneck
from .bottleneck import StreamingMeanStd as StreamingMeanStd
from .bottleneck import to_saliency_map as to_saliency_map
from .replay import Constant as Constant
from .replay import Intervention as Intervention
from .replay import Recorder as Recorder
from .replay import Replay as Replay
from .replay import Subject as Subject
