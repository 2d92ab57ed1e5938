"""GET and PUT /attribution: whether an account's requests are attributed to the users and tags that they name."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from http_api.operations import Asked, Nothing, Told
from http_api.query import Query
from mcp_gateway.core.identity.accounts import Accounts


class AttributionBody(BaseModel):
    """Whether requests are attributed from now on; what was recorded of earlier ones stays with them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    enabled: bool


class AttributionObject(Told):
    """Whether it is done, and where a request's user and tags are looked for, first what counts first."""

    object: Literal["attribution"]
    enabled: bool
    user_from: list[str]
    tags_from: list[str]


_USER_FIELDS = ["user", "safety_identifier", "metadata.user_id"]
_TAGS_FROM = ["metadata.tags", "the key's tags"]


class AttributionDoor:
    """`heard` has the server take up at once what this has changed."""

    def __init__(
        self, accounts: Accounts, user_headers: Callable[[], Sequence[str]], heard: Callable[[], Awaitable[None]]
    ) -> None:
        self._accounts = accounts
        self._user_headers = user_headers
        self._heard = heard

    async def get(self, asked: Asked[Query, Nothing]) -> AttributionObject:
        return self._object(is_attributed=(await self._accounts.get(asked.caller.account_id)).is_attributed)

    async def put(self, asked: Asked[Query, AttributionBody]) -> AttributionObject:
        is_attributed = asked.body.enabled
        await self._accounts.change(asked.caller.account_id, is_attributed=is_attributed)
        await self._heard()
        return self._object(is_attributed=is_attributed)

    def _object(self, *, is_attributed: bool) -> AttributionObject:
        headers = [f"{name} (header)" for name in self._user_headers()]
        return AttributionObject(
            object="attribution", enabled=is_attributed, user_from=[*headers, *_USER_FIELDS], tags_from=_TAGS_FROM
        )
