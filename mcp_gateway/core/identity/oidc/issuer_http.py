"""How an issuer is asked: JSON over HTTP, within bounds of time and size, and only where nobody on the way reads it."""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import orjson

from mcp_gateway.core.text import shown
from mcp_gateway.core.web_address import is_private, is_web_address

_TIMEOUT_S = 10.0
_MOST_BYTES = 1024 * 1024
_PLAIN = {"accept": "application/json", "accept-encoding": "identity"}

Json = dict[str, Any]


class IssuerFault(Exception):
    """The issuer cannot be asked, or says what cannot be used; the text is for the operator's log."""


class IssuerHttp:
    """A client of its own, which follows no redirect, keeps no cookie and has no proxy of the environment in mind."""

    def __init__(self, *, timeout_s: float = _TIMEOUT_S) -> None:
        import httpx2  # noqa: PLC0415 - takes 0.1 s to import

        self._timeout_s = timeout_s
        cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        self._client = httpx2.AsyncClient(headers=_PLAIN, timeout=timeout_s, cookies=cookies, trust_env=False)

    async def get_json(self, url: str, headers: Mapping[str, str] | None = None) -> Json:
        """What stands at an address. Raises IssuerFault."""
        status, told = await self._ask("GET", url, headers=headers)
        if status != HTTPStatus.OK:
            raise IssuerFault(f"{shown(url)} answers {status}")
        return told

    async def post_form(
        self, url: str, fields: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> tuple[int, Json]:
        """The status and what is said with it, which may be a refusal. Raises IssuerFault."""
        return await self._ask("POST", url, headers=headers, data=dict(fields))

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _ask(self, method: str, url: str, **request: Any) -> tuple[int, Json]:
        import httpx2  # noqa: PLC0415 - takes 0.1 s to import

        if not is_web_address(url) or not is_private(url):
            raise IssuerFault(f"{shown(url)} is no https address")
        try:
            async with asyncio.timeout(self._timeout_s), self._client.stream(method, url, **request) as response:
                raw = await self._body_of(response)
        except TimeoutError:
            raise IssuerFault(f"{shown(url)} does not answer within {self._timeout_s:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise IssuerFault(f"{shown(url)} cannot be reached: {type(error).__name__}") from None
        try:
            told = orjson.loads(raw)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise IssuerFault(f"{shown(url)} answers {response.status_code} and no object of JSON")
        return response.status_code, told

    async def _body_of(self, response: Any) -> bytes:
        """As it is sent: nothing is unpacked that may have been made small to become large."""
        raw = bytearray()
        async for piece in response.aiter_raw():
            raw += piece
            if len(raw) > _MOST_BYTES:
                raise IssuerFault(f"{shown(str(response.url))} says more than {_MOST_BYTES} bytes")
        return bytes(raw)
