"""A backend's refusal as a caller is told it."""

from mcp_gateway.core.dialects.vllm_refusals import error_of as error_told
from mcp_gateway.core.dialects.vllm_refusals import read_failure
from mcp_gateway.core.errors import GatewayError


def error_of(status: int, body: bytes, backend_model: str, public_model: str) -> GatewayError:
    """The error for a refusal of this status and body."""
    return error_told(read_failure(status, body), backend_model, public_model)
