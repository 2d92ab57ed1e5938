"""The MCP tools: what a model may call, each in a file of its own."""
