"""What becomes of a message that a caller sent, by the table of who is asked: fields, blocks, tools, prompt caches.

Knows no server and no caller: the tables stand in `messages_<dialect>_fields.py`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mcp_gateway.core.dialects.sifting import FieldUse, LeftOut, as_they_are, check_constraint, unsupported
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.surfaces.messages import BLOCKS_OF_BLOCKS

BETAS = "anthropic_beta"
"""The names in the header `anthropic-beta`, which a door adds to the body under the name that clouds have for them."""
_BETA = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MOST_BETAS = 64
_MESSAGE_KEYS = frozenset({"content", "role"})
_OUTPUT_KEYS = frozenset({"effort", "format"})
_OWN_TOOL = (None, "custom")
_EDITS = "clear_"
"""How those edits of a context begin that only leave out; others ask a model, which no hold is for."""
_SHORT_CACHE = (None, "5m")
_ATTRIBUTION = "x-anthropic-billing-header"
"""How Claude Code begins its system prompt: with what differs between sessions, so that no prefix would be cached."""


class MessageTable(NamedTuple):
    """What is taken: fields, the keys of each type of block, those of a tool, and how types of tools begin.

    `template_kwargs` are those of `chat_template_kwargs`, and `betas` how the names of features begin that a caller may
    switch on; None where there are none, and nobody is told. `has_attribution` is whether the line stays that Claude
    Code begins with, and `lowers_ttl` whether a cache is kept for five minutes, whatever is asked for.
    """

    fields: Mapping[str, FieldUse]
    block_keys: Mapping[str, frozenset[str]]
    tool_keys: frozenset[str]
    tool_types: tuple[str, ...] = ()
    template_kwargs: frozenset[str] = frozenset()
    betas: tuple[str, ...] | None = None
    has_attribution: bool = False
    lowers_ttl: bool = False


class MessageFields:
    """A table with what the operator passes besides."""

    def __init__(self, table: MessageTable, pass_fields: Iterable[str] = ()) -> None:
        self._table = table
        self._passed = as_they_are(table.fields, pass_fields)

    def sift(self, body: dict[str, Any]) -> tuple[str, ...]:
        """Leave of a message's body only what the table passes; the names that were removed, without repetition.

        The body has been read by its surface. Raises GatewayError for what may not be left out in silence.
        """
        left_out = LeftOut(self._table.fields)
        if BETAS in body:
            self._sift_betas(body, left_out)
        for name in [name for name in body if name not in self._passed]:
            use = self._table.fields.get(name)
            if use is FieldUse.BOUNDED and body[name] is not None:
                self._bound(body, name, left_out)
            elif use is not FieldUse.BOUNDED:
                left_out.drop(body, name, name, name, is_refused=use is FieldUse.REFUSED)
        for number, message in enumerate(body["messages"]):
            left_out.keep_only(message, _MESSAGE_KEYS, "messages[]", f"messages[{number}]")
            self._sift_blocks(message["content"], "messages[].content[]", f"messages[{number}].content", left_out)
            if message["role"] == "system" and not self._table.has_attribution:
                _remove_attribution(message, "content")
        return left_out.names

    def _bound(self, body: dict[str, Any], name: str, left_out: LeftOut) -> None:
        value = body[name]
        match name:
            case "cache_control":
                self._lower_ttl(body, left_out)
            case "chat_template_kwargs":
                left_out.keep_only(value, self._table.template_kwargs, name, name)
            case "context_management":
                _check_edits(value)
            case "output_config":
                left_out.keep_only(value, _OUTPUT_KEYS, name, name)
                check_constraint("json", value, name)
            case "system":
                self._sift_blocks(value, "system[]", name, left_out)
                if not self._table.has_attribution:
                    _remove_attribution(body, name)
            case "tools":
                self._sift_tools(body, left_out)

    def _sift_betas(self, body: dict[str, Any], left_out: LeftOut) -> None:
        asked, known = body.pop(BETAS), self._table.betas
        if known is None or not isinstance(asked, list):
            return
        taken = []
        for name in map(str, asked[:_MOST_BETAS]):
            if name.startswith(known) and _BETA.fullmatch(name):
                taken.append(name)
            else:
                left_out.note(f"anthropic-beta.{name}")
        body[BETAS] = taken

    def _sift_blocks(self, content: Any, name: str, where: str, left_out: LeftOut) -> None:
        if not isinstance(content, list):
            return
        for index, block in enumerate(content):
            place = f"{where}[{index}]"
            known = self._table.block_keys.get(block["type"])
            if known is None:
                raise self._no_block(place)
            left_out.keep_only(block, known, name, place)
            self._lower_ttl(block, left_out)
            if block["type"] in BLOCKS_OF_BLOCKS:
                self._sift_blocks(block.get("content"), f"{name}.content[]", f"{place}.content", left_out)
            elif block["type"] == "document":
                _check_document(block, place)

    def _no_block(self, place: str) -> GatewayError:
        kinds = ", ".join(self._table.block_keys)
        problem = f"`{place}` must be a block of one of these types: {kinds}; others are not served here."
        return GatewayError("unsupported_parameter", problem, param=place)

    def _sift_tools(self, body: dict[str, Any], left_out: LeftOut) -> None:
        """Tools that run elsewhere would never answer, or cost besides; vLLM refuses an empty list."""
        if not body["tools"]:
            del body["tools"]
            return
        for index, tool in enumerate(body["tools"]):
            place = f"tools[{index}]"
            if isinstance(tool, dict) and not self._runs_at_the_client(tool.get("type")):
                problem = f"`{place}`: a tool that does not run at the client is not served here; leave it out."
                raise GatewayError("unsupported_parameter", problem, param=place)
            left_out.keep_only(tool, self._table.tool_keys, "tools[]", place)
            if isinstance(tool, dict):
                self._lower_ttl(tool, left_out)

    def _runs_at_the_client(self, kind: Any) -> bool:
        return kind in _OWN_TOOL or (isinstance(kind, str) and kind.startswith(self._table.tool_types))

    def _lower_ttl(self, holder: dict[str, Any], left_out: LeftOut) -> None:
        """Have a cache kept for five minutes: longer ones cost more to write than their price says."""
        mark = holder.get("cache_control")
        if self._table.lowers_ttl and isinstance(mark, dict) and mark.get("ttl") not in _SHORT_CACHE:
            holder["cache_control"] = {name: value for name, value in mark.items() if name != "ttl"}
            left_out.note("cache_control.ttl")


def _check_edits(value: Any) -> None:
    edits = value.get("edits") if isinstance(value, dict) else None
    for index, edit in enumerate(edits if isinstance(edits, list) else ()):
        kind = edit.get("type") if isinstance(edit, dict) else None
        if not (isinstance(kind, str) and kind.startswith(_EDITS)):
            raise unsupported(f"context_management.edits[{index}]")


def _check_document(block: dict[str, Any], where: str) -> None:
    """Only of text: the pages of another are tokens that its bytes do not bound."""
    source = block.get("source")
    if not (isinstance(source, dict) and source.get("type") == "text" and isinstance(source.get("data"), str)):
        problem = f"`{where}.source` must be of type text: other documents are not served here."
        raise GatewayError("unsupported_parameter", problem, param=f"{where}.source")


def _remove_attribution(holder: dict[str, Any], name: str) -> None:
    """Take the line out of a text or of blocks, and with it what is empty then."""
    value = holder[name]
    if isinstance(value, str):
        holder[name] = _without_attribution(value)
    elif isinstance(value, list):
        for block in value:
            if isinstance(block.get("text"), str):
                block["text"] = _without_attribution(block["text"])
        holder[name] = [block for block in value if block.get("text") != ""]
    if not holder[name] and name == "system":
        del holder[name]


def _without_attribution(text: str) -> str:
    if not text.lstrip().lower().startswith(_ATTRIBUTION):
        return text
    return text.lstrip().partition("\n")[2].lstrip("\r\n")
