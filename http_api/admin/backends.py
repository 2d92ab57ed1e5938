"""GET /admin/backends: who answers, backends and providers, how each is, and which models are published."""

from collections.abc import Iterable
from typing import Literal

from http_api.health import BackendObject, backend_object
from http_api.operations import Asked, Nothing, Told
from http_api.query import Query
from mcp_gateway.core.catalog import Model, Published
from mcp_gateway.core.upstream.backend import Backend
from mcp_gateway.core.upstream.pool import ModelStatus, Pool


class KnownBackend(BackendObject):
    """A provider tells no queue; how it is, its answers tell alone."""

    kind: Literal["backend", "provider"]


class ServerOfModel(Told):
    """Who may be asked for a model, the name that it has there, and whether it serves it now."""

    backend: str
    name: str
    serves: bool


class PublishedModel(Told):
    """In the order of the configuration those who may answer for it; none where no backend lists it."""

    id: str
    status: ModelStatus
    served_by: list[ServerOfModel]


class BackendList(Told):
    """Backends, then providers, in the order of the configuration; `version` is the gateway's own."""

    object: Literal["list"]
    version: str
    data: list[KnownBackend]
    models: list[PublishedModel]


class BackendsDoor:
    def __init__(self, pool: Pool, published: Published, version: str) -> None:
        self._pool = pool
        self._published = published
        self._version = version

    async def list(self, asked: Asked[Query, Nothing]) -> BackendList:
        data = [KnownBackend(kind="backend", **dict(backend_object(one))) for one in self._pool.backends]
        data += [KnownBackend(kind="provider", **dict(backend_object(one))) for one in self._pool.providers.values()]
        models = [self._model(model) for model in self._published.current.values()]
        return BackendList(object="list", version=self._version, data=data, models=models)

    def _model(self, model: Model) -> PublishedModel:
        served_by = [
            ServerOfModel(backend=backend.name, name=offer.name, serves=backend.serves(offer.name))
            for offer in model.offers
            for backend in _with(offer.name, self._pool.sight[offer.source])
        ]
        return PublishedModel(id=model.id, status=self._pool.status_of(model), served_by=served_by)


def _with(name: str, backends: Iterable[Backend]) -> Iterable[Backend]:
    return (backend for backend in backends if name in backend.models.listings)
