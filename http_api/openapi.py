"""GET /openapi.json: the table of operations as an OpenAPI 3.1 document, with the schemas of what is taken and told.

Nothing is said here of any operation: whatever the document tells, the row that is carried out tells.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from http_api.bodies import FORM_TYPE
from http_api.operations import PREFIXES, Access, AnswerHeader, AnyOperation, Asked, Counts, Nothing, page_at_root
from http_api.query import AnyQuery, Query
from mcp_gateway.core.errors import TABLE, Code
from mcp_gateway.core.policy_links import NO_LINKS, PolicyLinks

Json = dict[str, Any]

_BEARER, _API_KEY, _COOKIE, _SIGNATURE = "bearer", "apiKey", "cookie", "stripeSignature"
_SECURITY_SCHEMES: Json = {
    _BEARER: {
        "type": "http",
        "scheme": "bearer",
        "description": "A key (`gw_live_...`, `gw_test_...`, or for /v1/admin `gw_admin_...`) or a token.",
    },
    _API_KEY: {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same."},
    _COOKIE: {"type": "apiKey", "in": "cookie", "name": "__Host-gw_console", "description": "Of a page of this host."},
    _SIGNATURE: {"type": "apiKey", "in": "header", "name": "Stripe-Signature"},
}
_ABOUT = (
    "An API for the SDKs of OpenAI and of Anthropic. The Model Context Protocol at /v1/mcp describes itself. Every GET "
    "may be asked by HEAD, and every path by OPTIONS, whose answer names in Allow what the path has; other methods are "
    "405 with the same. Pages of origins that the operator allows may call every operation and read all headers of its "
    "answers (CORS): a preflight is answered before a key is asked for."
)
_UNSEEN = (Access.OPEN, Access.SIGNED)
_HOLDERS = (Access.HOLDER, Access.LIVE_HOLDER, Access.ACCOUNT_HOLDER, Access.ADMINISTRATOR)
_ALWAYS: frozenset[Code] = frozenset({
    "internal_error", "invalid_json", "headers_too_large", "unknown_host", "unknown_method",
    "unsupported_transfer_coding", "unsupported_version",
})  # fmt: skip
"""Of any request: of its head, and of what went wrong on our side."""
_OF_KEYS: frozenset[Code] = frozenset({
    "invalid_api_key", "revoked_api_key", "expired_api_key", "expired_session", "account_deactivated",
    "ip_not_authorized",
    "ledger_unavailable",
})  # fmt: skip
_OF_ISSUERS: frozenset[Code] = frozenset({
    "registration_closed", "insufficient_permissions", "unsupported_region", "issuer_unavailable",
})  # fmt: skip
"""Of tokens of an issuer, beside those of keys."""
_OF_BODIES: frozenset[Code] = frozenset({
    "invalid_json", "invalid_type", "missing_parameter", "unsupported_parameter", "invalid_value", "body_too_large",
    "unsupported_encoding", "overloaded",
})  # fmt: skip
_OF_QUERIES: frozenset[Code] = frozenset({"unsupported_parameter", "invalid_value"})
_OF_LIMITS: dict[Counts, frozenset[Code]] = {
    Counts.NOTHING: frozenset(),
    Counts.QUERY: frozenset({"requests_per_minute", "guest"}),
    Counts.INFERENCE: frozenset({"requests_per_minute", "requests_per_day", "tokens_per_minute", "in_flight", "guest"}),
}
_OF_ANY = (
    AnswerHeader("X-Request-Id", "string", "The request's id, by which its operator and `/requests` know it."),
    AnswerHeader("X-Client-Request-Id", "string", "The id that the client sent in a header of that name, if any."),
)
_OF_CALLERS = tuple(
    AnswerHeader(f"X-RateLimit-{word}{of}", "integer", f"{says} {what} a minute.")
    for of, what in (("", "requests"), ("-Requests", "requests"), ("-Tokens", "tokens"))
    for word, says in (
        ("Limit", "The caller's limit of"), ("Remaining", "What is left of"),
        ("Reset", "The end, in Unix seconds, of the minute of"),
    )
)  # fmt: skip
_OF_REPEATS = (AnswerHeader("Idempotent-Replayed", "string", "`true` on the answer that was kept for the key."),)
_OF_STATUS: dict[int, tuple[AnswerHeader, ...]] = {
    401: (AnswerHeader("WWW-Authenticate", "string", "Which credential is asked for."),),
    402: (_NO_RETRY := AnswerHeader("X-Should-Retry", "string", "`false` where no second try within seconds helps."),),
    403: (AnswerHeader("WWW-Authenticate", "string", "Which scope is asked for, where one is missing."),),
    409: (_RETRY_AFTER := AnswerHeader("Retry-After", "integer", "The seconds to wait, where waiting helps."),),
    429: (_RETRY_AFTER, _NO_RETRY),
    503: (_RETRY_AFTER,),
}
_OF_ANTHROPIC = (AnswerHeader("Request-Id", "string", "The same as X-Request-Id, for Anthropic's clients."),)
_PARAMETER = re.compile(r"\{(\w+)(?::path)?\}")


class Document:
    """Makes the document when it is first asked for; `serves_guests` says whether keys may be left out."""

    def __init__(
        self,
        operations: Iterable[AnyOperation],
        *,
        version: str,
        base_url: str,
        serves_guests: Callable[[], bool],
        links: PolicyLinks = NO_LINKS,
    ) -> None:
        self.row: AnyOperation = page_at_root(
            "/openapi.json", "openapi", "Tell all of this to programs.", bytes, self.get
        )
        self._operations = [row for row in (*operations, self.row) if row.is_served and row.answer is not Nothing]
        self._version = version
        self._base_url = base_url
        self._serves_guests = serves_guests
        self._links = links
        self._written: dict[bool, bytes] = {}
        """By whether guests are served, which may change."""

    async def get(self, asked: Asked[AnyQuery, Nothing]) -> bytes:
        serves_guests = self._serves_guests()
        if serves_guests not in self._written:
            self._written[serves_guests] = orjson.dumps(self.as_object())
        return self._written[serves_guests]

    def as_object(self) -> Json:
        schemas = _Schemas(self._operations)
        paths: dict[str, Json] = {}
        for row in self._operations:
            for prefix in row.prefixes:
                path = _PARAMETER.sub(r"{\1}", prefix + row.path)
                paths.setdefault(path, {})[row.method.lower()] = self._operation(row, prefix, schemas)
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "mcp-gateway",
                "version": self._version,
                "description": _ABOUT,
                **_policy_in(self._links),
            },
            "servers": [{"url": self._base_url}],
            "paths": paths,
            "components": {
                "schemas": schemas.components,
                "headers": {header.name: _as_object(header) for row in self._operations for header in _headers_of(row)},
                "securitySchemes": _SECURITY_SCHEMES,
            },
        }

    def _operation(self, row: AnyOperation, prefix: str, schemas: "_Schemas") -> Json:
        told: Json = {
            "operationId": row.name if prefix == row.prefixes[0] else f"{row.name}_{_word_of(prefix)}",
            "summary": row.summary,
            "security": self._security(row),
            "responses": {**_answers(row, schemas), **_refusals(row, schemas)},
        }
        if parameters := [*_in_path(row), *schemas.parameters(row.query), *_in_head(row)]:
            told["parameters"] = parameters
        if row.body is not Nothing:
            media_type = FORM_TYPE.decode() if row.is_form else "application/json"
            told["requestBody"] = {"required": True, "content": {media_type: {"schema": schemas.of_body(row)}}}
        return told

    def _security(self, row: AnyOperation) -> list[Json]:
        """Where a key may be left out, an empty requirement says so."""
        if row.access is Access.OPEN:
            return []
        if row.access is Access.SIGNED:
            return [{_SIGNATURE: []}]
        if row.access is Access.PERSON:
            return [{_BEARER: []}, {_COOKIE: []}]
        scopes = [row.scope] if row.scope is not None else []
        is_needed = row.access in _HOLDERS or (row.access is Access.ANYONE and not self._serves_guests())
        return [*([] if is_needed else [{}]), {_BEARER: scopes}, {_API_KEY: scopes}, {_COOKIE: scopes}]


def _policy_in(links: PolicyLinks) -> Json:
    """The operator's terms and contact as OpenAPI has them, which has no word for a privacy policy."""
    told = {"termsOfService": links.terms_url, "x-privacy-policy": links.privacy_url}
    policy: Json = {word: url for word, url in told.items() if url is not None}
    if links.support is not None:
        policy["contact"] = {"url" if links.support == links.support_url else "email": links.support}
    return policy


def with_issuer(row: AnyOperation) -> AnyOperation:
    """The same row where an issuer's tokens are taken, too."""
    codes = row.refuses if row.access in _UNSEEN else row.refuses | _OF_ISSUERS
    return replace(row, refuses=codes | {"sign_in_elsewhere"} if row.is_for_people else codes)


def refusals_of(row: AnyOperation) -> frozenset[Code]:
    """Every code that an operation may be refused with: by its head, access, counts, query and body, and by itself."""
    codes = _ALWAYS | row.refuses | _OF_LIMITS[row.counts]
    if not row.is_always_answered:
        codes |= {"draining", "maintenance"}
    if row.access not in _UNSEEN:
        codes |= _OF_KEYS
    if row.access in _HOLDERS or row.access in (Access.ANYONE, Access.PERSON):
        codes |= {"missing_credentials"}
        codes |= {"insufficient_permissions"}  # for an administrator's key, or for any other
    if row.is_for_people:
        codes |= {"foreign_origin"}
    if row.scope is not None or row.access in (Access.LIVE_HOLDER, Access.ACCOUNT_HOLDER):
        codes |= {"insufficient_scope"}
    if row.is_regional:
        codes |= {"unsupported_region"}
    if row.query is not AnyQuery:
        codes |= _OF_QUERIES
    return codes | _OF_BODIES if row.body is not Nothing else codes


class _SchemaWriter(GenerateJsonSchema):
    """Without what says nothing: titles made of names, and the null of a field that is left out."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        told = super().default_schema(schema)
        if told.get("default", ...) is None:
            del told["default"]
        return told


class _Schemas:
    """The schemas of all models of the rows; each model has one name."""

    def __init__(self, rows: Iterable[AnyOperation]) -> None:
        wanted: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {}
        for row in rows:
            wanted |= dict.fromkeys(_models_of(row))
        self._refs, written = models_json_schema(
            list(wanted), ref_template="#/components/schemas/{model}", schema_generator=_SchemaWriter
        )
        self.components: Json = written["$defs"]

    def of_body(self, row: AnyOperation) -> Json:
        return {"type": "object"} if row.body is bytes else self._refs[row.body, "validation"]

    def of_answer(self, row: AnyOperation, media_type: str) -> Json:
        if media_type.startswith("text/event-stream"):
            return {"description": "Events, each as the API has it whose surface this is."}
        if not media_type.startswith("application/json") and not media_type.endswith("+json"):
            return {"type": "string"}
        return {"type": "object"} if row.answer is bytes else self._refs[row.answer, "serialization"]

    def of_refusal(self, row: AnyOperation) -> Json:
        return self._refs[row.shape.body, "serialization"]

    @staticmethod
    def parameters(query: type[Query]) -> Iterator[Json]:
        """What may stand in a query; a text there is never null."""
        schema = query.model_json_schema(schema_generator=_SchemaWriter)
        needed = schema.get("required", ())
        for name, told in schema.get("properties", {}).items():
            yield {"name": name, "in": "query", "required": name in needed, "schema": _never_null(told)}


def _models_of(row: AnyOperation) -> Iterator[tuple[type[BaseModel], JsonSchemaMode]]:
    if row.body not in (Nothing, bytes):
        yield row.body, "validation"
    yield row.shape.body, "serialization"
    if row.answer is not bytes:
        yield row.answer, "serialization"


def _never_null(schema: Json) -> Json:
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if not kinds:
        return schema
    rest = {word: said for word, said in schema.items() if word != "anyOf"}
    return rest | kinds[0] if len(kinds) == 1 else rest | {"anyOf": kinds}


def _in_path(row: AnyOperation) -> Iterator[Json]:
    """A request whose path has a control character is refused before anything is looked for."""
    for name in _PARAMETER.findall(row.path):
        schema = {"type": "string", "minLength": 1, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029]+$"}
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _in_head(row: AnyOperation) -> Iterator[Json]:
    """The key of what happens once, of which nothing else is refused as a conflict."""
    if "idempotency_mismatch" in row.refuses or (row.counts is Counts.INFERENCE and "conflict" in row.refuses):
        schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}
        yield {"name": "Idempotency-Key", "in": "header", "required": False, "schema": schema}


def _answers(row: AnyOperation, schemas: _Schemas) -> Json:
    content = {media_type: {"schema": schemas.of_answer(row, media_type)} for media_type in row.media_types}
    return {
        str(status): _answer(row, status, row.summary, {} if status == HTTPStatus.NOT_MODIFIED else content)
        for status in row.statuses
    }


def _refusals(row: AnyOperation, schemas: _Schemas) -> Json:
    """By status; where an answer has that too, it is told there."""
    by_status: dict[int, list[Code]] = {}
    for code in sorted(refusals_of(row)):
        by_status.setdefault(TABLE[code].status, []).append(code)
    content: Json = {"application/json": {"schema": schemas.of_refusal(row)}}
    if row.shape.page is not None:
        content["text/html"] = {"schema": {"type": "string"}}
    return {
        str(status): _answer(row, status, ", ".join(f"`{code}`" for code in codes), content)
        for status, codes in sorted(by_status.items())
        if status not in row.statuses
    }


def _answer(row: AnyOperation, status: int, description: str, content: Json) -> Json:
    headers = (*_stamps_of(row), *_OF_STATUS.get(status, ()))
    return {"description": description, "headers": _refs_of(headers)} | ({"content": content} if content else {})


def _stamps_of(row: AnyOperation) -> tuple[AnswerHeader, ...]:
    """The headers that its answers may have, whichever way they end."""
    return (
        *_OF_ANY,
        *(() if row.access in _UNSEEN else _OF_CALLERS),
        *(_OF_REPEATS if "conflict" in row.refuses else ()),
        *(() if row.shape.stamps is None else _OF_ANTHROPIC),
        *row.headers,
    )


def _headers_of(row: AnyOperation) -> Iterator[AnswerHeader]:
    yield from _stamps_of(row)
    for headers in _OF_STATUS.values():
        yield from headers


def _refs_of(headers: Iterable[AnswerHeader]) -> Json:
    return {header.name: {"$ref": f"#/components/headers/{header.name}"} for header in headers}


def _as_object(header: AnswerHeader) -> Json:
    return {"description": header.description, "schema": {"type": header.kind}}


def _word_of(prefix: str) -> str:
    return {PREFIXES[0]: "v1", PREFIXES[1]: "inference"}.get(prefix, "root")
