"""What a caller may have a model chosen for: quality, cost, latency, or a balance of them; what a key says of it."""

from typing import Any, Literal, NamedTuple, TypedDict, TypeGuard, get_args

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.text import shown

AUTO = "auto"
"""The name that stands for whichever model is chosen."""
Mode = Literal["balanced", "quality", "cost", "latency"]
MODES: tuple[Mode, ...] = get_args(Mode)
MODE_ALIASES: dict[str, Mode] = {
    "best": "quality",
    "best_quality": "quality",
    "cheapest": "cost",
    "fastest": "latency",
}
"""As dashboards call them."""

MAX_POOL_NAMES = 100
"""The most that the pool of a key may have."""


MovedByFeedback = Literal["own", "all", "off"]
"""Whose choices an account's scores of answers move: its own, those of all accounts, or nobody's."""


class RoutingDefaults(NamedTuple):
    """What a key says of the choice of its models; None where the settings, or a request, are to say it.

    `model_pool` has ids or aliases. `tells_event` is whether streams of chats begin with what was chosen under `/v1`
    too.
    """

    model_pool: tuple[str, ...] | None = None
    mode: Mode | None = None
    tells_event: bool = False

    def as_object(self) -> dict[str, Any]:
        """By the names under which a key is asked to have them."""
        pool, mode, tells_event = self
        return {
            "model_pool": None if pool is None else list(pool), "optimize_mode": mode, "routing_event": tells_event,
        }  # fmt: skip


NO_DEFAULTS = RoutingDefaults()


class RoutingChange(TypedDict, total=False):
    """Those of a key's defaults that are to be others; what is left out stays as it is."""

    model_pool: tuple[str, ...] | None
    mode: Mode | None
    tells_event: bool


def mode_named(name: str, param: str) -> Mode:
    """The mode of that name or alias. Raises GatewayError `invalid_value`, which lists both, for another."""
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    mode = MODE_ALIASES.get(plain, plain)
    if not _is_mode(mode):
        known = ", ".join((*MODES, *MODE_ALIASES))
        raise GatewayError("invalid_value", f"`{param}` is '{shown(name)}', which is no mode: {known}.", param=param)
    return mode


def _is_mode(name: str) -> TypeGuard[Mode]:
    return name in MODES
