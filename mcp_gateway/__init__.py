"""The gateway that agents call: MCP tools and an OpenAI-compatible API in front of vLLM."""

__version__ = "0.1.0"
