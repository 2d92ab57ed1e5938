"""The catalog as MCP resources: `models://catalog`, and `models://{id}` for each model.

Ids are percent-encoded but for their slashes. Every URI that decodes to an id names its model: as listed, as the
template's expansion has it, or with the id as it is.
"""

from typing import Any
from urllib.parse import quote, unquote

import orjson
from mcp import types
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated, ServerEvent

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import Catalog, Model, Published
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.text import shown
from mcp_gateway.core.upstream.pool import Pool
from mcp_gateway.tools.list_models import model_row, row_bytes
from mcp_gateway.tools.pages import first_page, models_behind

CATALOG_URI = "models://catalog"
_MODEL_CALLED_CATALOG_URI = "models://%63atalog"
TEMPLATE_URI = "models://{id}"
_SCHEME = "models"
_JSON = "application/json"
_PAGE_RESOURCES = 1000
_PAGE_BYTES = 512 * 1024
"""Clients drop an event of more than 1 MiB, and JSON within JSON takes more than by itself."""
_LISTED_BYTES = 128
"""What the names of a listed resource's members take."""


class Resources:
    """What is in the catalog now, and what has changed since it was last asked for changes."""

    templates = (
        types.ResourceTemplate(
            uri_template=TEMPLATE_URI,
            name="model",
            title="A model",
            description="One model: context window, prices, capabilities and health.",
            mime_type=_JSON,
        ),
    )

    def __init__(self, published: Published, pool: Pool) -> None:
        self._published = published
        self._pool = pool
        self._rows_told = self._rows()

    def listed(self, cursor: str | None) -> types.ListResourcesResult:
        """A page: the catalog, then each model in its order. Raises GatewayError for a page that there is not."""
        catalog = types.Resource(
            uri=CATALOG_URI,
            name="catalog",
            title="Model catalog",
            description="All models with context window, prices, capabilities and health.",
            mime_type=_JSON,
        )
        models = models_behind(cursor, self._published.current)
        page, has_more = first_page(models, _listed_bytes, max_entries=_PAGE_RESOURCES, max_bytes=_PAGE_BYTES)
        resources = [*([] if cursor else [catalog]), *map(_resource, page)]
        return types.ListResourcesResult(resources=resources, next_cursor=page[-1].id if has_more else None)

    def read(self, uri: str, caller: Caller) -> types.ReadResourceResult:
        """A resource's JSON, at the prices that the caller pays. Raises GatewayError `not_found`."""
        is_catalog = canonical_uri(uri) == CATALOG_URI
        seen = self._published.seen_by(caller)
        content = self._catalog(seen) if is_catalog else self._row_at(uri, seen)
        text = orjson.dumps(content).decode()
        return types.ReadResourceResult(contents=[types.TextResourceContents(uri=uri, mime_type=_JSON, text=text)])

    def canonical_uri(self, uri: str) -> str | None:
        """The URI by which changes of what a URI names are published; None where it names nothing that there is."""
        canonical = canonical_uri(uri)
        return canonical if canonical == CATALOG_URI or _model_at(uri, self._published.current) is not None else None

    def take_changes(self) -> list[ServerEvent]:
        """What subscribers are to be told."""
        before, after = self._rows_told, self._rows()
        self._rows_told = after
        changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        events: list[ServerEvent] = [ResourcesListChanged()] if list(before) != list(after) else []
        if changed:
            events.append(ResourceUpdated(CATALOG_URI))
        return events + [ResourceUpdated(_uri_of(name)) for name in changed]

    def _catalog(self, seen: Catalog) -> dict[str, Any]:
        """As much of it as fits into one message; for the rest there is list_models, with the cursor that is told."""
        rows = (self._row(model) for model in seen.values())
        page, has_more = first_page(rows, row_bytes, max_entries=_PAGE_RESOURCES, max_bytes=_PAGE_BYTES)
        return {"models": page} | ({"next_cursor": page[-1]["id"]} if has_more else {})

    def _rows(self) -> dict[str, dict[str, Any]]:
        return {model.id: self._row(model) for model in self._published.current.values()}

    def _row(self, model: Model) -> dict[str, Any]:
        return model_row(model, self._pool.status_of(model))

    def _row_at(self, uri: str, seen: Catalog) -> dict[str, Any]:
        model = _model_at(uri, seen)
        if model is None:
            raise GatewayError("not_found", f"There is no resource '{shown(uri)}'.")
        return self._row(model)


def _model_at(uri: str, catalog: Catalog) -> Model | None:
    named = _named_by(uri)
    return None if named is None else catalog.get(unquote(named))


def canonical_uri(uri: str) -> str:
    """The one URI of what a URI names, however that is written; a URI of no resource is its own."""
    named = _named_by(uri)
    if named is None:
        return uri
    return CATALOG_URI if f"{_SCHEME}://{named}" == CATALOG_URI else _uri_of(unquote(named))


def _named_by(uri: str) -> str | None:
    """What stands behind the scheme, whose case means nothing."""
    scheme, is_one, named = uri.partition("://")
    return named if is_one and scheme.lower() == _SCHEME else None


def _uri_of(model_id: str) -> str:
    """A model's own URI, which no client's parser changes: those take `.` and `..` out from between slashes."""
    is_relative = not {".", ".."}.isdisjoint(model_id.split("/"))
    uri = f"{_SCHEME}://{quote(model_id, safe='' if is_relative else '/')}"
    return _MODEL_CALLED_CATALOG_URI if uri == CATALOG_URI else uri


def _listed_bytes(model: Model) -> int:
    """About what a model takes in the list of resources, where each byte of its id is up to three in the URI."""
    return _LISTED_BYTES + 4 * len(model.id.encode()) + len(model.name.encode()) + len(model.description.encode())


def _resource(model: Model) -> types.Resource:
    return types.Resource(
        uri=_uri_of(model.id),
        name=model.id,
        title=model.name,
        description=model.description or None,
        mime_type=_JSON,
    )
