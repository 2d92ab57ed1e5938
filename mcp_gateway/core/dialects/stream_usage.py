"""Whether a provider's streams are asked for their usage, which some servers refuse to be asked."""

from typing import Any

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.provider_settings import Preset

_FIELD = "stream_options"


class StreamUsage:
    """Of one path of a provider."""

    def __init__(self, row: Preset) -> None:
        self._is_asked = row.stream_usage == "ask"

    def asked(self) -> dict[str, Any]:
        """The fields of a body that ask for a stream."""
        return {"stream": True} | ({_FIELD: {"include_usage": True}} if self._is_asked else {})

    def adapts_to(self, refusal: GatewayError, sent: bytes) -> bool:
        """Whether a refusal was for the question, which is left out from now on, and not for words of the caller."""
        is_told = refusal.param == _FIELD or _FIELD in refusal.message
        if not is_told or sent.count(_FIELD.encode()) != 1:
            return False
        self._is_asked = False
        return True
