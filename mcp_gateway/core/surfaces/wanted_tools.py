"""The tools of other servers that a request asks for, as its body says it. Knows no server and no tool."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_fields import at_least, checked, optional, required, unserved
from mcp_gateway.core.money import parse_usd
from mcp_gateway.core.text import shown

KIND = "mcp"
_MAX_NAMES = 1024
_KNOWN = frozenset({"type", "server_label", "allowed_tools", "require_approval", "server_description"})
_BOUNDS = frozenset({"max_rounds", "max_cost_usd", "tool_events"})


class WantedServer(NamedTuple):
    """A server by its label, with the names of its tools that may be used, None for all; `param` is where it stood."""

    label: str
    allowed: frozenset[str] | None
    param: str


class WantedTools(NamedTuple):
    """What a request wants of servers, and what bounds it; `own` are the names of the caller's functions.

    `max_cost_nano` is for all that is still to come.
    """

    servers: tuple[WantedServer, ...]
    own: frozenset[str]
    max_rounds: int | None
    max_cost_nano: int | None
    tells_events: bool

    @property
    def left_nano(self) -> int:
        """What may be spent, where that is bounded."""
        return self.max_cost_nano or 0

    def caps(self, amount_nano: int) -> bool:
        """Whether it is more than what may be spent."""
        return self.max_cost_nano is not None and self.max_cost_nano < amount_nano


def taken_out(body: dict[str, Any], tools: list[Any]) -> WantedTools | None:
    """Leave of a body's tools the caller's own; None where it asks for none of a server.

    Raises GatewayError for what is asked of a server in words that name it otherwise than by its label, too.
    """
    wanted = [
        (number, tool) for number, tool in enumerate(tools) if isinstance(tool, dict) and tool.get("type") == KIND
    ]
    if not wanted:
        return None
    servers = tuple(_server_in(tool, f"tools[{number}]") for number, tool in wanted)
    if len({server.label for server in servers}) < len(servers):
        raise GatewayError("invalid_value", "`tools` names a server more than once.", param="tools")
    if (body.get("n") or 1) > 1:
        raise GatewayError("invalid_value", "`n` must be 1 where tools of servers are used.", param="n")
    body["tools"] = [tool for tool in tools if not (isinstance(tool, dict) and tool.get("type") == KIND)]
    return _wanted_in(body, servers)


def offered(body: dict[str, Any], labels: Iterable[str]) -> WantedTools | None:
    """All tools of these servers, for a body that names none; None where it can have none. Raises GatewayError."""
    servers = tuple(WantedServer(label, None, "tools") for label in labels)
    if not servers or (body.get("n") or 1) > 1 or body.get("tool_choice") == "none":
        return None
    body["tools"] = list(body.get("tools") or ())
    return _wanted_in(body, servers)


def _wanted_in(body: dict[str, Any], servers: tuple[WantedServer, ...]) -> WantedTools:
    """With the bounds that a body tells, which has its caller's own tools alone."""
    bounds = optional(body, "gateway", dict) or {}
    body.pop("gateway", None)
    return WantedTools(
        servers,
        frozenset(filter(None, map(_name_of, body["tools"]))),
        _rounds_in(body, bounds),
        _cost_in(bounds),
        _events_in(bounds),
    )


def _server_in(tool: dict[str, Any], where: str) -> WantedServer:
    for name in tool:
        if name not in _KNOWN and tool[name] is not None:
            param = f"{where}.{shown(name)}"
            problem = f"`{param}` is not served here: servers are named by their `server_label` alone."
            raise GatewayError("unsupported_parameter", problem, param=param)
    if tool.get("require_approval") not in (None, "never"):
        param = f"{where}.require_approval"
        problem = f"`{param}` must be `never`: nobody can be asked here."
        raise GatewayError("unsupported_parameter", problem, param=param)
    try:
        label: str = required(tool, "server_label", str, "the label of a server")
    except GatewayError as error:
        raise GatewayError(error.code, error.message, param=f"{where}.server_label") from None
    return WantedServer(label, _allowed_in(tool.get("allowed_tools"), f"{where}.allowed_tools"), where)


def _allowed_in(value: Any, param: str) -> frozenset[str] | None:
    if isinstance(value, dict) and value.keys() <= {"tool_names"}:
        value = value.get("tool_names")  # as OpenAI writes it besides
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > _MAX_NAMES or not all(isinstance(name, str) for name in value):
        raise GatewayError("invalid_type", f"`{param}` must be a list of names of tools.", param=param)
    return frozenset(value)


def _name_of(tool: Any) -> str | None:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _rounds_in(body: dict[str, Any], bounds: dict[str, Any]) -> int | None:
    """It may stand beside `max_tokens` as well, which bounds each round."""
    for name in bounds.keys() - _BOUNDS:
        raise unserved(f"gateway.{shown(name)}")
    told = [at_least(place, "max_rounds", 1) for place in (bounds, body)]
    body.pop("max_rounds", None)
    return min((rounds for rounds in told if rounds is not None), default=None)


def _cost_in(bounds: dict[str, Any]) -> int | None:
    text = bounds.get("max_cost_usd")
    if text is None:
        return None
    try:
        cost_nano = parse_usd(checked(text, str, "gateway.max_cost_usd"))
    except ValueError:
        cost_nano = 0
    if cost_nano <= 0:
        problem = '`gateway.max_cost_usd` must be an amount in USD as text, such as "0.05".'
        raise GatewayError("invalid_value", problem, param="gateway.max_cost_usd")
    return cost_nano


def _events_in(bounds: dict[str, Any]) -> bool:
    return bool(optional(bounds, "tool_events", bool, "gateway."))
