"""What a caller may have a model chosen for: quality, cost, latency, or a balance of them. Knows no model."""

from typing import Literal, NamedTuple, TypeGuard, get_args

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.text import shown

Mode = Literal["balanced", "quality", "cost", "latency"]
MODES: tuple[Mode, ...] = get_args(Mode)
MODE_ALIASES: dict[str, Mode] = {"best": "quality", "cheapest": "cost", "fastest": "latency"}
"""As dashboards call them."""


class Emphasis(NamedTuple):
    """What a model's expected quality, cost and time are worth, each of which is told from 0 to 1.

    `holds_quality` is whether a model has to come near the best one's quality before its price or time counts;
    `eases_with_work`, whether these count less the more work a prompt is.
    """

    quality: float
    cost: float
    latency: float
    holds_quality: bool = False
    eases_with_work: bool = False


EMPHASIS: dict[Mode, Emphasis] = {
    "balanced": Emphasis(1, 0.25, 0.10, eases_with_work=True),
    "quality": Emphasis(1, 0.02, 0.02),
    "cost": Emphasis(0, 1, 0.02, holds_quality=True),
    "latency": Emphasis(0, 0.02, 1, holds_quality=True),
}


def mode_named(name: str, param: str) -> Mode:
    """The mode of that name or alias. Raises GatewayError `invalid_value`, which lists both, for another."""
    plain = name.strip().lower()
    mode = MODE_ALIASES.get(plain, plain)
    if not _is_mode(mode):
        known = ", ".join((*MODES, *MODE_ALIASES))
        raise GatewayError("invalid_value", f"`{param}` is '{shown(name)}', which is no mode: {known}.", param=param)
    return mode


def _is_mode(name: str) -> TypeGuard[Mode]:
    return name in MODES
