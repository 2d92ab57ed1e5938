"""A backend in the gateway's own process: deterministic, free, and on the wire like vLLM. It is no model."""

from mcp_gateway.core.upstream.demo.backend import DemoBackend

__all__ = ["DemoBackend"]
