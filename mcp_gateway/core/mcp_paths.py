"""The paths of the MCP door that clients know it by: each is what a token can be for (RFC 8707)."""

GUEST_PATH = "/mcp/guest"
"""Below a prefix: where nobody is ever asked for a credential."""
MCP_PATH = "/v1/mcp"
"""The address that people are given."""
GUEST_MCP_PATH = f"/v1{GUEST_PATH}"
"""The one that guests are given where the other asks for a sign-in."""
MCP_PATHS: tuple[str, ...] = tuple(
    prefix + path for prefix in ("/v1", "/api/v1/inference") for path in ("/mcp", "/mcp/", "/mcp/sse", "/mcp/sse/")
)
