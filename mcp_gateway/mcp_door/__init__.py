"""How MCP messages come in and answers go out: HTTP, server-sent events, sessions. Knows no tool."""
