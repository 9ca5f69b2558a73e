"""Growing a model in depth and width, exactly."""

from tritter_jax.growth.apply import grow, map_gradients
from tritter_jax.growth.axis_map import AxisMap
from tritter_jax.growth.depth import DEPTH, POSITIONS, DepthStrategy
from tritter_jax.growth.guarantee import TOLERANCE, Guarantee
from tritter_jax.growth.new_parameters import NewEntries, new_parameters
from tritter_jax.growth.plan import Plan, describe, make_plan
from tritter_jax.growth.plugins import load_strategies
from tritter_jax.growth.record import plan_from_record, plan_to_record
from tritter_jax.growth.split import SPLITS
from tritter_jax.growth.width import WIDTH, WidthStrategy

__all__ = [
    "DEPTH",
    "POSITIONS",
    "SPLITS",
    "TOLERANCE",
    "WIDTH",
    "AxisMap",
    "DepthStrategy",
    "Guarantee",
    "NewEntries",
    "Plan",
    "WidthStrategy",
    "describe",
    "grow",
    "load_strategies",
    "make_plan",
    "map_gradients",
    "new_parameters",
    "plan_from_record",
    "plan_to_record",
]
