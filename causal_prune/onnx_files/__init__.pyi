from .export import check_form as check_form
from .export import export_onnx as export_onnx
from .options import OnnxForm as OnnxForm
from .parity import Parity as Parity
from .parity import compare_onnx as compare_onnx
from .session import open_session as open_session
from .session import random_feed as random_feed
from .session import signature as signature
