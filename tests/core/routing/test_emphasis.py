"""Every mode says what quality, cost and time are worth to it."""

from mcp_gateway.core.optimization import MODES
from mcp_gateway.core.routing.emphasis import EMPHASIS


def test_every_mode_weighs_something() -> None:
    assert EMPHASIS.keys() == set(MODES)
