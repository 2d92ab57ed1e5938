"""Which headers say whom a request is made for: `[attribution]`."""

from typing import Annotated

from mcp_gateway.core.provider_settings import PassedHeader
from mcp_gateway.core.section import CommaSeparated, Section


class AttributionSettings(Section):
    """Whom requests are made for, recorded for accounts that ask for it."""

    user_headers: Annotated[tuple[PassedHeader, ...], CommaSeparated] = (
        "X-OpenWebUI-User-Id", "X-LiteLLM-End-User-Id", "X-LiteLLM-Customer-Id", "Helicone-User-Id",
    )  # fmt: skip
    """Headers with a user's id, the first that is sent counts; without any, what the body says. Of those that chat
    front ends send, ids alone: an X-OpenWebUI-User-Email is recorded where it is named here."""
