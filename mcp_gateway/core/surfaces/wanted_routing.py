"""The field `routing` of a request: from what, and for what, its model is to be chosen. Knows no model.

It is for who asks for `auto`, and is never sent on.
"""

from fractions import Fraction
from typing import Any, NamedTuple

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_fields import at_most, checked, optional, unserved
from mcp_gateway.core.money import MILLION_TOKENS, exact_pico
from mcp_gateway.core.optimization import MAX_POOL_NAMES, Mode, mode_named
from mcp_gateway.core.prompt_tasks import PromptTask, task_named
from mcp_gateway.core.text import shown

ROUTING = "routing"
_FIELDS = ("model_pool", "optimize", "task", "max_price_per_million", "event")


class WantedRouting(NamedTuple):
    """None stands for what the key, or else the settings, say.

    `max_price_pico` is for a token, of a prompt or an answer. `tells_event` is whether a stream of a chat begins with
    what was chosen.
    """

    model_pool: tuple[str, ...] | None = None
    mode: Mode | None = None
    task: PromptTask | None = None
    max_price_pico: Fraction | None = None
    tells_event: bool | None = None


NOTHING_WANTED = WantedRouting()


def routing_taken_out(body: dict[str, Any]) -> WantedRouting | None:
    """What a body says of the choice, which it has no more; None where it says nothing. Raises GatewayError (400)."""
    wanted = optional(body, ROUTING, dict)
    body.pop(ROUTING, None)
    if wanted is None:
        return None
    for name in wanted:
        if name not in _FIELDS:
            raise unserved(f"{ROUTING}.{shown(name)}")
    mode, task = (optional(wanted, name, str, f"{ROUTING}.") for name in ("optimize", "task"))
    return WantedRouting(
        model_pool=_pool_in(wanted),
        mode=None if mode is None else mode_named(mode, f"{ROUTING}.optimize"),
        task=None if task is None else task_named(task, f"{ROUTING}.task"),
        max_price_pico=_price_in(wanted.get("max_price_per_million")),
        tells_event=optional(wanted, "event", bool, f"{ROUTING}."),
    )


def _pool_in(wanted: dict[str, Any]) -> tuple[str, ...] | None:
    names, param = optional(wanted, "model_pool", list, f"{ROUTING}."), f"{ROUTING}.model_pool"
    if names is None:
        return None
    at_most(names, MAX_POOL_NAMES, param)
    if not names:
        raise GatewayError("invalid_value", f"`{param}` is empty: name a model, or leave it out.", param=param)
    return tuple(checked(name, str, f"{param}[{number}]") for number, name in enumerate(names))


def _price_in(value: Any) -> Fraction | None:
    param = f"{ROUTING}.max_price_per_million"
    try:
        return None if value is None else exact_pico(value, MILLION_TOKENS)
    except ValueError:
        problem = f"`{param}` must be a number of USD for a million tokens, such as 0.5."
        raise GatewayError("invalid_value", problem, param=param) from None
