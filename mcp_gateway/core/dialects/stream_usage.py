"""Whether a provider's streams are asked for their usage, which some servers refuse to be asked."""

from typing import Any

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.provider_settings import Preset


class StreamUsage:
    """Of one path of a provider."""

    def __init__(self, row: Preset) -> None:
        self._is_asked = row.stream_usage == "ask"

    def asked(self) -> dict[str, Any]:
        """The fields of a body that ask for a stream."""
        return {"stream": True} | ({"stream_options": {"include_usage": True}} if self._is_asked else {})

    def adapts_to(self, refusal: GatewayError) -> bool:
        """Whether a refusal was for the question, which is left out from now on.

        One that comes without it too was for words of a caller: then usage is asked for again.
        """
        if refusal.param != "stream_options" and "stream_options" not in refusal.message:
            return False
        self._is_asked = not self._is_asked
        return not self._is_asked
