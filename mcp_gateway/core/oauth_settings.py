"""The settings of the gateway's own authorization server, by which MCP clients sign people in: `[oauth]`."""

from typing import Annotated

from pydantic import Field

from mcp_gateway.core.section import Section

_Count = Annotated[int, Field(ge=1)]


class OAuthSettings(Section):
    """MCP clients sign people in by a browser (docs/oauth.md); needs public_url, and no [oidc] beside it."""

    enabled: bool = False
    """Ask MCP clients for a sign-in at /v1/mcp, and give them tokens for it; guests go to /v1/mcp/guest then."""
    registrations_per_minute: _Count = 10
    """Clients that may register themselves from one address in a minute."""
    documents_per_minute: _Count = 10
    """Descriptions of clients that are fetched for requests from one address in a minute."""
    max_unused_clients: _Count = 10_000
    """Registered clients that nobody has let in yet; each of them is forgotten after a day."""
    max_grant_days: Annotated[int, Field(ge=1, le=3650)] = 365
    """For how long a person may let a client in at most."""
