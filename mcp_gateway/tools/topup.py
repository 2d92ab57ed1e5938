"""An empty wallet's way out: the client shows its person the page to top up at, where it can (URL elicitation).

Source: elicitation in MCP 2025-11-25 (a request to the client) and 2026-07-28 (an input that the result requires).
"""

from typing import Any, Literal

from mcp import MCPError, types
from mcp.server import ServerRequestContext
from mcp.types.version import is_version_at_least

_ASK = "topup"
_MESSAGE = "The wallet does not cover this request. Top it up on this page; then the request can be sent again."
ASKING = "Waiting for the person, who is asked to top up."
_SINCE = "2025-11-25"
_INPUT_REQUIRED_SINCE = "2026-07-28"

Action = Literal["accept", "decline", "cancel"]
ADVICE: dict[Action | None, str] = {
    "accept": "The page to top up at was offered to the person, who agreed to open it: send the same call again when "
    "they say that they have paid.",
    "decline": "The page to top up at was offered to the person, who declined.",
    "cancel": "The page to top up at was offered to the person, who did not answer.",
    None: "Tell the person to top up at {url}.",
}


async def offer(
    ctx: ServerRequestContext[Any, Any], params: types.CallToolRequestParams, url: str, elicitation_id: str
) -> types.InputRequiredResult | Action | None:
    """What to send instead of a result, or what the person did about it; None where the client cannot show a page."""
    capabilities = ctx.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities else None
    if elicitation is None or elicitation.url is None or not is_version_at_least(ctx.protocol_version, _SINCE):
        return None
    if is_version_at_least(ctx.protocol_version, _INPUT_REQUIRED_SINCE):
        return _required_or_answered(params, url)
    if not ctx.session.can_send_request:
        return None
    try:
        answer = await ctx.session.elicit_url(_MESSAGE, url, elicitation_id, related_request_id=ctx.request_id)
    except (MCPError, ValueError):
        return None
    return answer.action


def _required_or_answered(params: types.CallToolRequestParams, url: str) -> types.InputRequiredResult | Action:
    answer = (params.input_responses or {}).get(_ASK)
    if isinstance(answer, types.ElicitResult):
        return answer.action
    request = types.ElicitRequest(params=types.ElicitRequestURLParams(message=_MESSAGE, url=url))
    return types.InputRequiredResult(input_requests={_ASK: request})
