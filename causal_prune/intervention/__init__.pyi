from .bottleneck import InformationBottleneck as InformationBottleneck
from .replay import Constant as Constant
from .replay import Intervention as Intervention
from .replay import Recorder as Recorder
from .replay import Replay as Replay
from .replay import Subject as Subject
