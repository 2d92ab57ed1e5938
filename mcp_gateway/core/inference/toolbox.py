"""The tools of servers that one request may use: by which names a model is offered them, and what its calls come to.

A result is data: it changes neither which tools there are nor who may call them. Nothing of arguments or results is
kept here.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.parts import Parts
from mcp_gateway.core.mcp_client.servers import ServedTool, ToolOutcome, ToolServer, ToolServers
from mcp_gateway.core.surfaces.wanted_tools import WantedServer, WantedTools
from mcp_gateway.core.text import shown

_MAX_NAME_CHARS = 64
"""As OpenAI's API has it."""
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_MAX_CALLS = 16
"""Of servers' tools in one round."""
_MAX_ARGUMENT_CHARS = 256 * 1024
_FOUND = 8
_WORD = re.compile(r"[a-z0-9]+")
FIND, CALL = "find_tool", "call_tool"
_MISSING = "The tools of {} cannot be called: their server cannot be reached now. Say so where an answer needs them."
_NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}
_TWO_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": FIND,
            "description": "Find tools by what they do: names, descriptions and parameters.",
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string", "description": "A few words."}},
                "required": ["query"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": CALL,
            "description": "Call a tool that find_tool has found.",
            "parameters": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "arguments": {"type": "object"}},
                "required": ["name", "arguments"],
            },
        },
    },
]


class OfferedTool(NamedTuple):
    """A tool, and the server that runs it."""

    server: ToolServer
    tool: ServedTool


class RanTool(NamedTuple):
    """What a caller is told of a call."""

    server: str
    name: str
    took_ms: int
    is_ok: bool

    def as_object(self) -> dict[str, Any]:
        return {"server": self.server, "name": self.name, "ms": self.took_ms, "ok": self.is_ok}


class ToolCall(NamedTuple):
    """A call as a model made it; `arguments` are JSON, if all is well.

    `more` is what else was told of it: some providers refuse a conversation in which it does not come back.
    """

    id: str
    name: str
    arguments: str
    more: Mapping[str, Any] = MappingProxyType({})

    def as_object(self) -> dict[str, Any]:
        """As OpenAI's API has it in a message."""
        function = {"name": self.name, "arguments": self.arguments or "{}"}
        return {**self.more, "id": self.id, "type": "function", "function": function}


class Toolbox:
    """What is offered in one request, by the names that its model is told; `own` are the caller's functions.

    Of each server that cannot be reached a model is told by a function that says so, since no template of a chat has a
    place for anything else.
    """

    def __init__(
        self,
        offered: Mapping[str, OfferedTool],
        unreached: Mapping[str, str],
        own: frozenset[str],
        account_id: str,
        parts: Parts,
        *,
        search_from: int | None,
    ) -> None:
        self._offered = offered
        self._unreached = unreached
        """The labels of servers, by the names of the functions that stand for them."""
        self._own = own
        self._account_id = account_id
        self._monotonic_s = parts.monotonic_s
        self._count = parts.metrics.tool_called
        is_long = search_from is not None and len(offered) >= search_from
        self._is_searched = is_long and own.isdisjoint((FIND, CALL))
        self.ran: list[RanTool] = []
        """Every call of a server's tool, in the order in which they ended."""

    @property
    def definitions(self) -> list[dict[str, Any]]:
        """As OpenAI describes functions."""
        offered = [] if self._is_searched else self._offered.items()
        told = [_function(name, one.tool.description, one.tool.input_schema) for name, one in offered]
        missing = [_function(name, _MISSING.format(label), _NO_ARGUMENTS) for name, label in self._unreached.items()]
        return [*(_TWO_TOOLS if self._is_searched else told), *missing]

    @property
    def unreached(self) -> list[str]:
        """The labels of servers that the request wanted, and that cannot be reached."""
        return list(self._unreached.values())

    def is_ours(self, name: str) -> bool:
        """Whether a call is not for the caller to carry out: a model that calls what there is not is told so."""
        return name not in self._own

    def told_name(self, call: ToolCall) -> str:
        """Server and name of what a call is for, or its own name, in one line."""
        name = self._meant(call)[0]
        one = self._offered.get(name)
        return shown(name) if one is None else f"{one.tool.server}.{one.tool.name}"

    async def run(self, calls: Sequence[ToolCall]) -> list[str]:
        """What the model is told of each call. Those of a round run at once."""
        told = await asyncio.gather(*(self._run(call) for call in calls[:_MAX_CALLS]))
        late = f"Not called: at most {_MAX_CALLS} tools are called at once. Call it again, if it is still needed."
        return [*told, *(late for _ in calls[_MAX_CALLS:])]

    async def _run(self, call: ToolCall) -> str:
        if self._is_searched and call.name == FIND:
            return self._found(call)
        name, arguments = self._meant(call)
        if name in self._unreached:
            return _MISSING.format(self._unreached[name])
        one = self._offered.get(name)
        if one is None:
            return f"There is no tool {shown(name)}."
        if arguments is None:
            return "The arguments are no JSON object."
        began_at_s = self._monotonic_s()
        outcome = ToolOutcome("", False)
        try:
            outcome = await one.server.call(self._account_id, one.tool.name, arguments)
        finally:
            took_s = self._monotonic_s() - began_at_s
            self.ran.append(RanTool(one.tool.server, one.tool.name, int(took_s * 1000), outcome.is_ok))
            self._count(one.tool.server, took_s, is_ok=outcome.is_ok)
        return outcome.text

    def _meant(self, call: ToolCall) -> tuple[str, dict[str, Any] | None]:
        """The tool and the arguments that a call is for; None for what are none."""
        arguments = _object_in(call.arguments)
        if not (self._is_searched and call.name == CALL):
            return call.name, arguments
        inner = (arguments or {}).get("arguments")
        name = (arguments or {}).get("name")
        inner = _object_in(inner) if isinstance(inner, str) else inner
        return name if isinstance(name, str) else "", inner if isinstance(inner, dict) else None

    def _found(self, call: ToolCall) -> str:
        """The definitions of the tools that share the most words with a query, as JSON."""
        query = (_object_in(call.arguments) or {}).get("query")
        words = set(_WORD.findall(query.lower())) if isinstance(query, str) else set()
        ranked = sorted(self._offered.items(), key=lambda item: -_shared(words, *item))
        found = [
            _described(name, one.tool.description, one.tool.input_schema)
            for name, one in ranked[:_FOUND]
            if _shared(words, name, one)
        ]
        names = ", ".join(list(self._offered)[:200])
        return orjson.dumps(found).decode() if found else f"No tool fits these words. There are: {names}."


def toolbox(
    servers: ToolServers,
    wanted: WantedTools,
    caller: Caller,
    parts: Parts,
    *,
    search_from: int | None,
) -> Toolbox:
    """What a request asks for of what its caller may use. Raises GatewayError for a server that there is none of."""
    own = servers.of(caller)
    tools = [one for server in wanted.servers for one in _tools_of(server, own)]
    offered = _named(tools, wanted.own, [server.label for server in wanted.servers])
    reserved = {*offered, *wanted.own, FIND, CALL}
    gone = [server.label for server in wanted.servers if not own[server.label].is_reached]
    unreached = {_free(f"{label}__cannot_be_reached", reserved): label for label in gone}
    return Toolbox(offered, unreached, wanted.own, caller.account_id, parts, search_from=search_from)


def _tools_of(wanted: WantedServer, own: Mapping[str, ToolServer]) -> Iterable[OfferedTool]:
    server = own.get(wanted.label)
    if server is None:
        param = f"{wanted.param}.server_label"
        problem = f"There is no server {shown(wanted.label)!r} that this key may use."
        raise GatewayError("invalid_value", problem, param=param)
    return [OfferedTool(server, tool) for tool in server.tools if wanted.allowed is None or tool.name in wanted.allowed]


def _named(tools: Sequence[OfferedTool], taken: Iterable[str], labels: Sequence[str]) -> dict[str, OfferedTool]:
    """The tools by names that a model may be told.

    Those that clash, with the caller's too, are prefixed, and those that a server gave the prefix of another.
    """
    plain = [_NOT_IN_NAMES.sub("_", one.tool.name)[:_MAX_NAME_CHARS] for one in tools]
    counts = Counter([*plain, *set(taken), FIND, CALL])
    clear = {
        name
        for name, one in zip(plain, tools, strict=True)
        if counts[name] == 1 and not any(name.startswith(f"{label}__") for label in labels if label != one.tool.server)
    }
    reserved = {*taken, *clear, FIND, CALL}
    return {
        name if name in clear else _free(f"{one.tool.server}__{name}", reserved): one
        for name, one in zip(plain, tools, strict=True)
    }


def _free(name: str, reserved: set[str]) -> str:
    """The name, or the first with a number that nothing else has, which is reserved from now on."""
    free, number = name[:_MAX_NAME_CHARS], 2
    while free in reserved:
        free, number = f"{name[: _MAX_NAME_CHARS - 4]}_{number}", number + 1
    reserved.add(free)
    return free


def _described(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "description": description, "parameters": parameters}


def _function(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": _described(name, description, parameters)}


def _shared(words: set[str], name: str, one: OfferedTool) -> int:
    return len(words & set(_WORD.findall(f"{name} {one.tool.description}".lower().replace("_", " "))))


def _object_in(text: str) -> dict[str, Any] | None:
    try:
        value = orjson.loads(text or "{}") if len(text) <= _MAX_ARGUMENT_CHARS else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
