from .filter_graph import FilterGraph as FilterGraph
from .filter_graph import Group as Group
from .filter_graph import Layer as Layer
from .filter_graph import Member as Member
from .network_trace import trace as trace
from .trial_cuts import difference as difference
from .two_graphs import GraphDifference as GraphDifference
from .two_graphs import differences as differences
