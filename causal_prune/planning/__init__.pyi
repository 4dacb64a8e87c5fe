from .latency_target import plan_latency as plan_latency
from .network_cost import macs_kept as macs_kept
from .plan_recovery import plan_of as plan_of
from .targets import NOT_ASKED as NOT_ASKED
from .targets import TARGETS as TARGETS
from .targets import Goal as Goal
from .unit_choice import plan as plan
from .unit_choice import plan_like as plan_like
