from .latency_target import plan_latency as plan_latency
from .targets import checked_target as checked_target
from .unit_choice import plan as plan
from .unit_choice import plan_like as plan_like
