"""The planners by name."""

from collections.abc import Callable, Mapping

from core.base.names import choose
from core.planning.categorical import make_categorical
from core.planning.cem import make_cem
from core.planning.gradient import make_gradient
from core.planning.icem import make_icem
from core.planning.mppi import make_mppi
from core.planning.plans import Planner

PLANNERS: Mapping[str, Callable[..., Planner]] = {  # of real actions
    "cem": make_cem,
    "icem": make_icem,
    "mppi": make_mppi,
    "gradient": make_gradient,
}
DISCRETE: Mapping[str, Callable[..., Planner]] = {"categorical": make_categorical}


def make_planner(name: str, objective, space, **settings) -> Planner:
    """The planner `name`; raises ValueError if there is none, or a setting is wrong."""
    known = dict(PLANNERS) | dict(DISCRETE)
    return choose([name], known, "planner")[name](objective, space, **settings)
