"""Growing a model in depth and width, exactly."""

from tritter_jax.growth.apply import grow, map_gradients
from tritter_jax.growth.axis_map import AxisMap
from tritter_jax.growth.depth import DEPTH, DepthStrategy
from tritter_jax.growth.fisher import FISHER, FisherRule
from tritter_jax.growth.guarantee import TOLERANCE, Guarantee
from tritter_jax.growth.moments import MOMENTS, MomentStrategy
from tritter_jax.growth.named_target import named_target
from tritter_jax.growth.new_parameters import NewEntries, new_parameters
from tritter_jax.growth.noise import Noise
from tritter_jax.growth.optimizer import grow_optimizer
from tritter_jax.growth.own.check import FunctionCheck, check_function
from tritter_jax.growth.own.fisher import grow_fisher
from tritter_jax.growth.own.plan import AxesPlan, plan_axes
from tritter_jax.growth.plan import Plan, describe
from tritter_jax.growth.planning import make_plan
from tritter_jax.growth.plugins import load_strategies
from tritter_jax.growth.positions import POSITIONS
from tritter_jax.growth.preserves import Preserves
from tritter_jax.growth.record import method_of, plan_from_record, plan_to_record, stored_plan
from tritter_jax.growth.rewarm import rewarm, scale_entries, train_only
from tritter_jax.growth.split import SPLITS, SplitRule
from tritter_jax.growth.width import WIDTH, WidthStrategy

__all__ = [
    "DEPTH",
    "FISHER",
    "MOMENTS",
    "POSITIONS",
    "SPLITS",
    "TOLERANCE",
    "WIDTH",
    "AxesPlan",
    "AxisMap",
    "DepthStrategy",
    "FisherRule",
    "FunctionCheck",
    "Guarantee",
    "MomentStrategy",
    "NewEntries",
    "Noise",
    "Plan",
    "Preserves",
    "SplitRule",
    "WidthStrategy",
    "check_function",
    "describe",
    "grow",
    "grow_fisher",
    "grow_optimizer",
    "load_strategies",
    "make_plan",
    "map_gradients",
    "method_of",
    "named_target",
    "new_parameters",
    "plan_axes",
    "plan_from_record",
    "plan_to_record",
    "rewarm",
    "scale_entries",
    "stored_plan",
    "train_only",
]
