"""Modes have one name each, and those that dashboards use."""

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.optimization import MODES, mode_named
from tests.cases import each


@each(
    ("name", "mode"),
    [
        *((mode, mode) for mode in MODES),
        ("best", "quality"),
        ("Best Quality", "quality"),
        ("best-quality", "quality"),
        ("cheapest", "cost"),
        ("Fastest", "latency"),
        (" COST ", "cost"),
    ],
)
def test_a_mode_is_known_by_its_names(name: str, mode: str) -> None:
    assert mode_named(name, "routing.optimize") == mode


@each("name", ["", "speed", "balanced!", "x" * 10_000])
def test_another_is_refused_with_the_list(name: str) -> None:
    with pytest.raises(GatewayError) as refused:
        mode_named(name, "routing.optimize")
    assert (refused.value.code, refused.value.param) == ("invalid_value", "routing.optimize")
    assert all(known in refused.value.message for known in (*MODES, "best", "cheapest", "fastest"))
    assert len(refused.value.message) < 300
