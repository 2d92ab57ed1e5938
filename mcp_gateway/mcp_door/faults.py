"""What is wrong with a request's parameters, in words that name it: the SDK's own refusals say nothing."""

from mcp import MCPError
from mcp.types import INVALID_PARAMS, ErrorData
from mcp.types.version import is_version_at_least
from pydantic import ValidationError

from mcp_gateway.core.text import shown
from mcp_gateway.core.value_faults import reason
from mcp_gateway.mcp_door.jsonrpc import RESOURCE_NOT_FOUND

_RESOURCE_MISSING_IN_PARAMS_SINCE = "2026-07-28"
_MAX_FAULTS = 3


def faults_of(error: ValidationError) -> ErrorData:
    """The first few of them, each with where it stands."""
    found = error.errors(include_url=False, include_input=False, include_context=False)[:_MAX_FAULTS]
    told = dict.fromkeys(f"{_place(fault['loc'])} {reason(fault['type'], fault['msg'])}" for fault in found)
    return ErrorData(code=INVALID_PARAMS, message=f"The parameters are wrong: {'; '.join(told)}.")


def bounded(error: ErrorData) -> ErrorData:
    """An error of the SDK's without data that is empty, and with what it repeats of the request cut."""
    if not isinstance(error.data, str):
        return error
    return ErrorData(code=error.code, message=error.message, data=shown(error.data) or None)


def no_resource(uri: str, version: str) -> MCPError:
    """There is nothing of that URI, in the revision's words."""
    is_in_params = is_version_at_least(version, _RESOURCE_MISSING_IN_PARAMS_SINCE)
    text = f"There is no resource '{shown(uri)}'. resources/list tells what there is."
    return MCPError(INVALID_PARAMS if is_in_params else RESOURCE_NOT_FOUND, text, {"uri": shown(uri)})


def _place(path: tuple[int | str, ...]) -> str:
    """Of a value that may be of several types, each complains under its own name."""
    parts = [shown(str(part)) for part in path if part not in ("params", "str", "int")]
    return f"`{'.'.join(parts) or 'params'}`"
