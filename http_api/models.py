"""GET /models, /models/{id} and /models/{id}/health."""

from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response

from http_api.operations import unknown_url
from http_api.responses import json_response
from mcp_gateway.core.catalog import Published, model_object
from mcp_gateway.core.context import CONTEXT
from mcp_gateway.core.limits.limiter import Limiter
from mcp_gateway.core.upstream.pool import Pool


class Models:
    def __init__(self, published: Published, pool: Pool, limiter: Limiter) -> None:
        self._published = published
        self._pool = pool
        self._limiter = limiter

    async def list(self, request: Request) -> Response:
        self._admit(request)
        rows = [model_object(model) for model in self._published.current.values()]
        return json_response({"object": "list", "data": rows})

    async def get(self, request: Request) -> Response:
        self._admit(request)
        return json_response(model_object(self._published.current.find(_model_id(request))))

    async def health(self, request: Request) -> Response:
        model = self._published.current.find(_model_id(request))
        return json_response({"model": model.id, "status": self._pool.status_of(model)})

    def _admit(self, request: Request) -> None:
        caller = request.scope[CONTEXT].caller
        self._published.check_reader(caller)
        self._limiter.count_listing(caller)


def _model_id(request: Request) -> str:
    """An id may have slashes, which SDKs send as they are or as `%2F`. Raises GatewayError where there is none."""
    if not request.path_params["model_id"].strip("/"):
        raise unknown_url(request.scope["path"], [request.scope["path"].rstrip("/")])
    return unquote(request.path_params["model_id"])
