"""The gateway that agents call: MCP tools and an OpenAI-compatible API in front of vLLM."""

from importlib.metadata import version

__version__ = version("mcp-gateway")
