"""What a provider itself lists, in whichever form and on however many pages: its operator asks, a gateway never."""

import ssl
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from mcp_gateway.core.provider_keys import headers_of
from mcp_gateway.core.provider_settings import Preset, ProviderSettings, address_of, row_of
from mcp_gateway.core.upstream.transport import Timeouts, Transport, TransportLimits, UpstreamError

_MAX_LIST_BYTES = 16 * 1024 * 1024
_LIST_S = 20.0
_MOST_PAGES = 50
_OK = 200
Rows = dict[str, dict[str, Any]]
"""By the provider's name of a model."""


class UnreadableList(Exception):
    """There is none, or none that is understood; the text says why."""


async def read_list(provider: ProviderSettings, key: str | None, ssl_context: ssl.SSLContext) -> Rows:
    """All of it. Raises UnreadableList, which says why not in words."""
    row = row_of(provider)
    url = urlsplit(address_of(provider, row.models_url or row.base_url + "/models"))
    timeouts, limits = Timeouts(unary_s=_LIST_S), TransportLimits(max_body_bytes=_MAX_LIST_BYTES)
    transport = Transport(f"{url.scheme}://{url.netloc}", timeouts=timeouts, limits=limits, ssl_context=ssl_context)
    try:
        return await _read_pages(transport, url.path, row, key)
    except UpstreamError as error:
        raise UnreadableList(f"its list cannot be had: {error}") from None
    finally:
        await transport.aclose()


async def _read_pages(transport: Transport, path: str, row: Preset, key: str | None) -> Rows:
    models: Rows = {}
    page = path
    for _ in range(_MOST_PAGES):
        response = await transport.request("GET", page, headers_of(row, key))
        body = await response.read()
        if response.status != _OK:
            raise UnreadableList(f"its list answered {response.status}")
        try:
            told = orjson.loads(body)
            rows = told[row.models_at] or []
            models |= {str(one[row.models_id]).removeprefix(row.models_prefix): one for one in rows}
        except (orjson.JSONDecodeError, LookupError, TypeError):
            raise UnreadableList("its list could not be understood") from None
        following = _following(told)
        if following is None:
            break
        page = f"{path}?{following}"
    return models


def _following(told: dict[str, Any]) -> str | None:
    """The query of the next page, as Anthropic and Cohere have it; None for the last."""
    if told.get("has_more") and isinstance(told.get("last_id"), str):
        return "after_id=" + quote(told["last_id"], safe="")
    token = told.get("next_page_token")
    return "page_token=" + quote(token, safe="") if isinstance(token, str) and token else None
