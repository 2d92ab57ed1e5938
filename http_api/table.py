"""THE table of operations: every path of the HTTP door, who may ask there, what is taken, answered and refused.

Rows alone; what a row says is carried out by operations.py, and by middleware/ before that.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from starlette.types import Receive, Scope, Send

from http_api.admin.table import AdminEndpoints, admin_operations
from http_api.anthropic import ANTHROPIC_SHAPE, BY_ITS_CLIENT
from http_api.attribution import AttributionBody, AttributionDoor, AttributionObject
from http_api.auto_topups import AutoTopUpBody, AutoTopUpDoor, AutoTopUpObject, RemovedAutoTopUp
from http_api.billing import (
    Billing,
    BillingObject,
    CreditsObject,
    NotedTransactionPage,
    TransactionPage,
    TransactionsQuery,
)
from http_api.chat import ChatAnswer, ChatRequestBody
from http_api.completions import CompletionAnswer, CompletionRequestBody
from http_api.current_key import CurrentKey, CurrentKeyObject
from http_api.embeddings import EmbeddingAnswer, EmbeddingRequestBody
from http_api.exports import MEDIA_TYPES as EXPORTED
from http_api.feedback import Feedback, FeedbackBody, FeedbackObject
from http_api.generations import GenerationObject, GenerationQuery, Generations
from http_api.health import Health, HealthObject, MetricsPage
from http_api.inference import HEADERS, IGNORED, InferenceEndpoint, InferenceQuery
from http_api.issuer_sign_in import LOCATION, CallbackQuery, IssuerSignIn, RedirectObject, StartQuery
from http_api.key_objects import CreatedKey, KeyObject, KeyPage, RevokedKey
from http_api.keys import KeyChange, Keys, KeysQuery, NewKey, RevokeQuery, Rotation
from http_api.limits import Limits, LimitsObject
from http_api.messages import ESTIMATED, CountedRequestBody, MessageAnswer, MessageRequestBody, TokenCount, TokenCounts
from http_api.models import ModelAnswer, ModelHealth, ModelListAnswer, Models, ModelsQuery
from http_api.oauth import (
    OAUTH_SHAPE,
    REGISTER_PATH,
    REGISTRATION_SHAPE,
    REVOKE_PATH,
    TOKEN_PATH,
    ClientBody,
    ClientObject,
    GrantedTokensObject,
    OAuthDoor,
    RevokeBody,
    RevokedToken,
    TokenBody,
)
from http_api.operations import (
    INFERENCE,
    OPENAI,
    PREFIXES,
    ROOT,
    Access,
    AnswerHeader,
    AnyOperation,
    Counts,
    Nothing,
    Operation,
    page_at_root,
)
from http_api.people import (
    SESSION_COOKIE,
    DeletedUser,
    EndedSessions,
    InvitationBody,
    LoginBody,
    OneTimeSecretObject,
    PasswordBody,
    PasswordChanged,
    PeopleDoor,
    ProfileBody,
    RegisterBody,
    SessionList,
    SignedInObject,
    TokenObject,
    UserList,
    UserObject,
)
from http_api.protected_resources import ProtectedResources
from http_api.proxy import ProviderPaths
from http_api.query import AnyQuery, Query
from http_api.rendering import HTML
from http_api.requests import RequestObject, RequestPage, Requests, RequestsQuery
from http_api.responses import RESPONSES_SHAPE, ResponsesAnswer, ResponsesBody
from http_api.routes import BELOW, refusing, unknown_url
from http_api.scores import RerankAnswer, RerankRequestBody, ScoreAnswer, ScoreRequestBody
from http_api.server_card import ServerCard
from http_api.statements import MEDIA_TYPES, StatementObject, StatementQuery, Statements
from http_api.stats import Stats, StatsObject
from http_api.status import ATOM, STATUS_PATH, SVG, StatusDoor, StatusSummary
from http_api.tokens import (
    DetokenizeAnswer,
    DetokenizeRequestBody,
    TokenEndpoint,
    TokenizeAnswer,
    TokenizeRequestBody,
)
from http_api.tools import ToolObjects, Tools
from http_api.topups import CheckoutBody, CheckoutObject, Empty, PortalObject, Receipt, TopUps
from http_api.unserved import refusals
from http_api.usage import UsageQuery, UsageReport, UsageReports
from http_api.webhooks import RemovedWebhook, WebhookBody, WebhookDoor, WebhookObject
from http_api.welcome import Welcome, WelcomeObject
from mcp_gateway.core.caller import KeyScope
from mcp_gateway.core.errors import Code
from mcp_gateway.core.identity.oidc.browser_sign_in import CALLBACK, START
from mcp_gateway.core.mcp_paths import GUEST_PATH
from mcp_gateway.core.observe.metrics import CONTENT_TYPE


class McpEndpoints(Protocol):
    """The MCP door as this one sees it: three ASGI endpoints."""

    async def streamable_http(self, scope: Scope, receive: Receive, send: Send) -> None: ...
    async def sse(self, scope: Scope, receive: Receive, send: Send) -> None: ...
    async def messages(self, scope: Scope, receive: Receive, send: Send) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """What the rows run."""

    chat: InferenceEndpoint
    completions: InferenceEndpoint
    embeddings: InferenceEndpoint
    rerank: InferenceEndpoint
    score: InferenceEndpoint
    messages: InferenceEndpoint
    message_tokens: TokenCounts
    responses: InferenceEndpoint
    tokenize: TokenEndpoint
    detokenize: TokenEndpoint
    proxy: ProviderPaths
    mcp: McpEndpoints
    resources: ProtectedResources | None
    """None where nobody but the gateway gives tokens."""
    card: ServerCard | None
    """None where the gateway does not know its own address."""
    tools: Tools
    people: PeopleDoor
    issuer_sign_in: IssuerSignIn | None
    """None where nobody signs in elsewhere with a browser."""
    oauth: OAuthDoor | None
    """None where the gateway gives no tokens for the MCP door."""
    models: Models
    keys: Keys
    limits: Limits
    current_key: CurrentKey
    generations: Generations
    feedback: Feedback
    billing: Billing
    statements: Statements
    topups: TopUps
    auto_topups: AutoTopUpDoor
    webhooks: WebhookDoor
    attribution: AttributionDoor
    usage: UsageReports
    requests: Requests
    stats: Stats
    status: StatusDoor
    health: Health
    metrics: MetricsPage
    welcome: Welcome
    admin: AdminEndpoints


def operations_of(run: Endpoints, *, are_models_public: bool, are_stats_public: bool) -> list[AnyOperation]:
    """The rows. Of two whose paths both fit, the first is meant."""
    return [
        *(replace(row, is_regional=row.method == "POST") for row in _inference(run)),
        *([_proxy(run.proxy)] if run.proxy.are_asked else []),
        *_mcp(run.mcp, asks_for_sign_in=run.resources is not None),
        *([] if run.resources is None else run.resources.rows),
        *([] if run.oauth is None else _oauth(run.oauth)),
        *([] if run.card is None else run.card.rows),
        *_nothing_well_known(),
        _tools(run.tools),
        *_models(run.models, are_public=are_models_public),
        *_webhooks(run.webhooks),
        *_attribution(run.attribution),
        *_keys(run.keys),
        *_for_people([*_people(run.people), *_colleagues(run.people), *_keys_of_people(run.keys)]),
        *([] if run.issuer_sign_in is None else _issuer_sign_in(run.issuer_sign_in)),
        *_money(run.billing, run.statements),
        *(_payments(run.topups) if run.topups.are_configured else _no_payments(run.topups)),
        *_auto_topups(run.auto_topups),
        *_history(run),
        *([_stats(run.stats), *_status(run.status)] if are_stats_public else []),
        *_root(run),
        *admin_operations(run.admin, _of_account(run)),
        *refusals(),
    ]


_ONCE: frozenset[Code] = frozenset({"conflict", "idempotency_mismatch", "invalid_value"})
"""Of what an Idempotency-Key makes happen once."""
_SET_ASIDE: frozenset[Code] = frozenset(
    {"insufficient_balance", "below_minimum_balance", "budget_exhausted", "balance_held"}
)
"""Of what a lease takes."""
_REPORTED: frozenset[Code] = frozenset({"overloaded"})
"""Of what may take long to read."""
_NOT_FOUND: frozenset[Code] = frozenset({"not_found"})
_OF_INFERENCE: frozenset[Code] = frozenset({
    "conflict", "content_policy", "context_length_exceeded", "vision_disabled", "invalid_image_url",
    "insufficient_balance", "below_minimum_balance", "budget_exhausted", "guests_not_allowed",
    "model_not_found", "unsupported_endpoint", "tokens_per_minute",
    "in_flight", "backend_busy", "balance_held", "connect_failed", "first_token_timeout", "backend_error",
    "backend_died", "model_unavailable", "not_found",
})  # fmt: skip


_OF_COUNTS: frozenset[Code] = frozenset({
    "content_policy", "context_length_exceeded", "vision_disabled", "invalid_image_url", "guests_not_allowed",
    "model_not_found", "backend_busy", "connect_failed", "first_token_timeout", "backend_error", "backend_died",
    "model_unavailable", "unsupported_endpoint",
})  # fmt: skip


_ASKED_BY_ADMINISTRATORS = (
    "billing", "statement", "usage", "list_requests", "get_request",
    "get_webhook", "put_webhook", "remove_webhook", "rotate_webhook", "get_auto_topup",
)  # fmt: skip
"""Of what accounts ask about themselves."""
_AS_VLLM = (*PREFIXES, *ROOT)
"""At the root too, where vLLM has it."""
_OF_CLIENTS: frozenset[Code] = frozenset({"invalid_credentials", "ledger_unavailable"})
"""Of what clients ask for with their own name."""
_EVERYWHERE = (*ROOT, *PREFIXES)


def _inference(run: Endpoints) -> list[AnyOperation]:
    return [
        Operation(
            method="POST",
            path="/chat/completions",
            name="chat",
            summary="Answer a conversation, in one piece or as a stream of events.",
            access=Access.ANYONE,
            scope="inference",
            counts=Counts.INFERENCE,
            query=InferenceQuery,
            body=ChatRequestBody,
            answer=ChatAnswer,
            endpoint=run.chat,
            media_types=("application/json", "text/event-stream"),
            headers=HEADERS,
            refuses=_OF_INFERENCE,
        ),
        Operation(
            method="POST",
            path="/completions",
            name="completions",
            summary="Go on with a text, or with several, in one piece or as a stream of events.",
            access=Access.ANYONE,
            scope="inference",
            counts=Counts.INFERENCE,
            query=InferenceQuery,
            body=CompletionRequestBody,
            answer=CompletionAnswer,
            endpoint=run.completions,
            media_types=("application/json", "text/event-stream"),
            headers=HEADERS,
            refuses=_OF_INFERENCE,
        ),
        Operation(
            method="POST",
            path="/embeddings",
            name="embeddings",
            summary="Turn texts into vectors.",
            access=Access.ANYONE,
            scope="inference",
            counts=Counts.INFERENCE,
            query=InferenceQuery,
            body=EmbeddingRequestBody,
            answer=EmbeddingAnswer,
            endpoint=run.embeddings,
            headers=HEADERS,
            refuses=_OF_INFERENCE,
        ),
        Operation(
            method="POST",
            path="/rerank",
            name="rerank",
            summary="Rank documents by how well they answer a query.",
            access=Access.ANYONE,
            scope="inference",
            counts=Counts.INFERENCE,
            query=InferenceQuery,
            body=RerankRequestBody,
            answer=RerankAnswer,
            endpoint=run.rerank,
            headers=HEADERS,
            refuses=_OF_INFERENCE,
        ),
        Operation(
            method="POST",
            path="/v2/rerank",
            name="rerank_v2",
            summary="The same, where Cohere has it.",
            access=Access.ANYONE,
            scope="inference",
            counts=Counts.INFERENCE,
            query=InferenceQuery,
            body=RerankRequestBody,
            answer=RerankAnswer,
            endpoint=run.rerank,
            headers=HEADERS,
            refuses=_OF_INFERENCE,
            prefixes=ROOT,
        ),
        Operation(
            method="POST",
            path="/score",
            name="score",
            summary="Score how alike texts are.",
            access=Access.ANYONE,
            scope="inference",
            counts=Counts.INFERENCE,
            query=InferenceQuery,
            body=ScoreRequestBody,
            answer=ScoreAnswer,
            endpoint=run.score,
            headers=HEADERS,
            refuses=_OF_INFERENCE,
        ),
        Operation(
            method="POST",
            path="/responses",
            name="responses",
            summary="Answer a conversation in the shape of OpenAI's Responses API; nothing of it is kept.",
            access=Access.ANYONE,
            scope="inference",
            counts=Counts.INFERENCE,
            query=InferenceQuery,
            body=ResponsesBody,
            answer=ResponsesAnswer,
            endpoint=run.responses,
            media_types=("application/json", "text/event-stream"),
            headers=HEADERS,
            refuses=_OF_INFERENCE | {"insufficient_quota"},
            shape=RESPONSES_SHAPE,
        ),
        Operation(
            method="POST",
            path="/messages",
            name="messages",
            summary="Answer a conversation as Anthropic's API does, in one piece or as a stream of events.",
            access=Access.ANYONE,
            scope="inference",
            counts=Counts.INFERENCE,
            query=InferenceQuery,
            body=MessageRequestBody,
            answer=MessageAnswer,
            endpoint=run.messages,
            media_types=("application/json", "text/event-stream"),
            headers=HEADERS,
            refuses=_OF_INFERENCE,
            shape=ANTHROPIC_SHAPE,
        ),
        Operation(
            method="POST",
            path="/messages/count_tokens",
            name="count_message_tokens",
            summary="Count the tokens of a conversation, free of charge.",
            access=Access.ANYONE,
            scope="inference",
            counts=Counts.QUERY,
            query=InferenceQuery,
            body=CountedRequestBody,
            answer=TokenCount,
            endpoint=run.message_tokens,
            headers=(ESTIMATED,),
            refuses=_OF_COUNTS,
            shape=ANTHROPIC_SHAPE,
        ),
        Operation(
            method="POST",
            path="/tokenize",
            name="tokenize",
            summary="Tell the tokens of a prompt or a conversation, free of charge.",
            access=Access.ANYONE,
            scope="inference",
            counts=Counts.QUERY,
            query=AnyQuery,
            body=TokenizeRequestBody,
            answer=TokenizeAnswer,
            endpoint=run.tokenize,
            headers=(IGNORED,),
            refuses=_OF_COUNTS,
            prefixes=_AS_VLLM,
        ),
        Operation(
            method="POST",
            path="/detokenize",
            name="detokenize",
            summary="Tell the text of tokens, free of charge.",
            access=Access.ANYONE,
            scope="inference",
            counts=Counts.QUERY,
            query=AnyQuery,
            body=DetokenizeRequestBody,
            answer=DetokenizeAnswer,
            endpoint=run.detokenize,
            headers=(IGNORED,),
            refuses=_OF_COUNTS,
            prefixes=_AS_VLLM,
        ),
        Operation(
            method="GET",
            path="/limits",
            name="limits",
            summary="Tell what the caller may use, and what is left of it.",
            access=Access.ANYONE,
            scope="inference",
            counts=Counts.QUERY,
            query=AnyQuery,
            body=Nothing,
            answer=LimitsObject,
            handle=run.limits.get,
        ),
    ]


def _proxy(proxy: ProviderPaths) -> AnyOperation:
    """What is asked and answered there, the provider says; what it counts depends on that."""
    return Operation(
        method="*",
        path=f"/proxy{BELOW}",
        name="proxy",
        summary="Ask a provider by its own paths.",
        access=Access.HOLDER,
        scope="inference",
        counts=Counts.NOTHING,
        query=AnyQuery,
        body=Nothing,
        answer=Nothing,
        endpoint=proxy,
        is_regional=True,
        prefixes=ROOT,
        shape=BY_ITS_CLIENT,
    )


def _mcp(mcp: McpEndpoints, *, asks_for_sign_in: bool) -> list[AnyOperation]:
    """Each message is judged and counted by the MCP door.

    A client signs itself in where it is refused, and never where it is let in as a guest: so these have a place apart.
    """
    access = Access.HOLDER if asks_for_sign_in else Access.ANYONE
    at = [
        ("*", "/mcp", "mcp", mcp.streamable_http),
        ("*", "/mcp/", "mcp_slash", mcp.streamable_http),
        ("GET", "/mcp/sse", "mcp_sse", mcp.sse),
        ("GET", "/mcp/sse/", "mcp_sse_slash", mcp.sse),
        ("POST", "/mcp/messages", "mcp_messages", mcp.messages),
        ("POST", "/mcp/messages/", "mcp_messages_slash", mcp.messages),
    ]
    for_guests = [
        ("*", GUEST_PATH, "mcp_guest", mcp.streamable_http),
        ("*", f"{GUEST_PATH}/", "mcp_guest_slash", mcp.streamable_http),
    ]
    return [
        Operation(
            method=method,
            path=path,
            name=name,
            summary="Speak the Model Context Protocol.",
            access=who,
            counts=Counts.NOTHING,
            query=AnyQuery,
            body=Nothing,
            answer=Nothing,
            endpoint=endpoint,
            has_own_host_check=True,
            is_for_mcp_pages=True,
        )
        for who, rows in ((access, at), (Access.ANYONE, for_guests))
        for method, path, name, endpoint in rows
    ]


def _oauth(oauth: OAuthDoor) -> list[AnyOperation]:
    """At the root, for whatever page a client is."""
    return [
        *oauth.metadata_rows,
        Operation(
            method="POST",
            path=REGISTER_PATH,
            name="oauth_register",
            summary="Register an MCP client, so that people can let it in.",
            access=Access.OPEN,
            counts=Counts.NOTHING,
            query=AnyQuery,
            body=ClientBody,
            answer=ClientObject,
            handle=oauth.register,
            statuses=(201,),
            refuses=frozenset({"requests_per_minute", "ledger_unavailable"}),
            prefixes=ROOT,
            shape=REGISTRATION_SHAPE,
            is_for_all_pages=True,
        ),
        Operation(
            method="POST",
            path=TOKEN_PATH,
            name="oauth_token",
            summary="Give a client tokens for a code, or for a refresh token.",
            access=Access.OPEN,
            counts=Counts.NOTHING,
            query=AnyQuery,
            body=TokenBody,
            answer=GrantedTokensObject,
            handle=oauth.token,
            refuses=_OF_CLIENTS,
            prefixes=ROOT,
            shape=OAUTH_SHAPE,
            is_form=True,
            is_for_all_pages=True,
        ),
        Operation(
            method="POST",
            path=REVOKE_PATH,
            name="oauth_revoke",
            summary="End what a client was let in for, by one of its tokens.",
            access=Access.OPEN,
            counts=Counts.NOTHING,
            query=AnyQuery,
            body=RevokeBody,
            answer=RevokedToken,
            handle=oauth.revoke,
            refuses=_OF_CLIENTS,
            prefixes=ROOT,
            shape=OAUTH_SHAPE,
            is_form=True,
            is_for_all_pages=True,
        ),
    ]


def _nothing_well_known() -> list[AnyOperation]:
    """What else clients look for: an authorization server that is not here."""
    return [
        refusing(
            f"{below}/.well-known{BELOW}",
            f"well_known{number}",
            _no_such_document,
            access=Access.OPEN,
            prefixes=_EVERYWHERE,
            is_for_mcp_pages=True,
        )
        for number, below in enumerate(("", "/mcp", "/mcp/sse", GUEST_PATH))
    ]


def _tools(tools: Tools) -> AnyOperation:
    return Operation(
        method="GET",
        path="/mcp/tools",
        name="list_tools",
        summary="Tell the tools of other MCP servers that the caller's chats may use.",
        access=Access.HOLDER,
        scope="inference",
        counts=Counts.QUERY,
        query=AnyQuery,
        body=Nothing,
        answer=ToolObjects,
        handle=tools.list,
        refuses=frozenset({"insufficient_permissions"}),
    )


async def _no_such_document(scope: Scope, _receive: Receive, _send: Send) -> None:
    """Where MCP clients look for an authorization server: 404 and never 401, which they would take for one."""
    raise unknown_url(scope["path"], ())


def _models(models: Models, *, are_public: bool) -> list[AnyOperation]:
    access = Access.PUBLIC if are_public else Access.HOLDER
    scope: KeyScope | None = None if are_public else "inference"
    return [
        Operation(
            method="GET",
            path="/models",
            name="list_models",
            summary="List the models, with prices and what each can do.",
            access=access,
            scope=scope,
            counts=Counts.QUERY,
            query=ModelsQuery,
            body=Nothing,
            answer=ModelListAnswer,
            handle=models.list,
            shape=BY_ITS_CLIENT,
        ),
        Operation(
            method="GET",
            path="/models/{model_id:path}/health",
            name="model_health",
            summary="Tell whether a model is served now.",
            access=Access.OPEN,
            counts=Counts.NOTHING,
            query=AnyQuery,
            body=Nothing,
            answer=ModelHealth,
            handle=models.health,
            refuses=frozenset({"model_not_found", "unknown_url"}),
        ),
        Operation(
            method="GET",
            path="/models/{model_id:path}",
            name="get_model",
            summary="Tell of one model; its id may have slashes.",
            access=access,
            scope=scope,
            counts=Counts.QUERY,
            query=AnyQuery,
            body=Nothing,
            answer=ModelAnswer,
            handle=models.get,
            shape=BY_ITS_CLIENT,
            refuses=frozenset({"model_not_found", "unknown_url"}),
        ),
    ]


def _keys(keys: Keys) -> list[AnyOperation]:
    return [
        Operation(
            method="GET",
            path="/keys",
            name="list_keys",
            summary="List the account's keys, the newest first.",
            access=Access.HOLDER,
            scope="manage",
            counts=Counts.QUERY,
            query=KeysQuery,
            body=Nothing,
            answer=KeyPage,
            handle=keys.list,
            refuses=_REPORTED,
        ),
        Operation(
            method="POST",
            path="/keys",
            name="create_key",
            summary="Make a key, which is shown this once.",
            access=Access.HOLDER,
            scope="manage",
            counts=Counts.QUERY,
            query=Query,
            body=NewKey,
            answer=CreatedKey,
            handle=keys.create,
            statuses=(201,),
            refuses=_ONCE
            | _SET_ASIDE
            | {"insufficient_permissions", "requests_per_day", "not_found", "model_not_found"},
        ),
        Operation(
            method="GET",
            path="/keys/{key_id}",
            name="get_key",
            summary="Tell of one key.",
            access=Access.HOLDER,
            scope="manage",
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=KeyObject,
            handle=keys.get,
            refuses=_NOT_FOUND,
        ),
        Operation(
            method="PATCH",
            path="/keys/{key_id}",
            name="change_key",
            summary="Rename a key, lower its limits, or change where it may be used from and what is said of it.",
            access=Access.HOLDER,
            scope="manage",
            counts=Counts.QUERY,
            query=Query,
            body=KeyChange,
            answer=KeyObject,
            handle=keys.change,
            refuses=_NOT_FOUND | {"insufficient_permissions", "invalid_value", "model_not_found"},
        ),
        Operation(
            method="POST",
            path="/keys/{key_id}/rotate",
            name="rotate_key",
            summary="Give a key a new secret, which is shown this once; the old one ends when that is asked for.",
            access=Access.HOLDER,
            counts=Counts.QUERY,
            query=Query,
            body=Rotation,
            answer=CreatedKey,
            handle=keys.rotate,
            refuses=_ONCE | _NOT_FOUND,
        ),
        Operation(
            method="DELETE",
            path="/keys/{key_id}",
            name="revoke_key",
            summary="End a key for good, and those that it made where `with_made` says so.",
            access=Access.HOLDER,
            scope="manage",
            counts=Counts.QUERY,
            query=RevokeQuery,
            body=Nothing,
            answer=RevokedKey,
            handle=keys.revoke,
            refuses=_NOT_FOUND,
        ),
    ]


_SIGN_IN: frozenset[Code] = frozenset({"too_many_sign_ins", "ledger_unavailable"})


def _for_people(rows: Iterable[AnyOperation]) -> list[AnyOperation]:
    """With what all under /auth have in common: a row that lacked it would be open to the pages of others."""
    return [replace(row, prefixes=_EVERYWHERE, is_for_people=True) for row in rows]


def _people(people: PeopleDoor) -> list[AnyOperation]:
    return [
        Operation(
            method="POST",
            path="/auth/register",
            name="register",
            summary="Register, and be signed in.",
            access=Access.OPEN,
            counts=Counts.NOTHING,
            query=Query,
            body=RegisterBody,
            answer=SignedInObject,
            handle=people.register,
            headers=(SESSION_COOKIE,),
            is_regional=True,
            statuses=(201,),
            refuses=_SIGN_IN | {"conflict", "registration_closed", "not_found", "invalid_credentials"},
        ),
        Operation(
            method="POST",
            path="/auth/login",
            name="login",
            summary="Sign in by e-mail address and password: a token for programs, a cookie for browsers.",
            access=Access.OPEN,
            counts=Counts.NOTHING,
            query=Query,
            body=LoginBody,
            answer=SignedInObject,
            handle=people.login,
            headers=(SESSION_COOKIE,),
            refuses=_SIGN_IN | {"invalid_credentials"},
        ),
        Operation(
            method="POST",
            path="/auth/logout",
            name="logout",
            summary="End the session that asks, with all of its tokens.",
            access=Access.PERSON,
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=EndedSessions,
            handle=people.logout,
            headers=(SESSION_COOKIE,),
            refuses=_NOT_FOUND,
        ),
        Operation(
            method="POST",
            path="/auth/refresh",
            name="refresh",
            summary="Have a further token made for the session that asks.",
            access=Access.PERSON,
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=TokenObject,
            handle=people.refresh,
        ),
        Operation(
            method="GET",
            path="/auth/me",
            name="me",
            summary="Tell who is signed in.",
            access=Access.PERSON,
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=UserObject,
            handle=people.me,
            refuses=_NOT_FOUND,
        ),
        Operation(
            method="PATCH",
            path="/auth/me",
            name="change_me",
            summary="Choose the time zone that pages tell times in.",
            access=Access.PERSON,
            counts=Counts.QUERY,
            query=Query,
            body=ProfileBody,
            answer=UserObject,
            handle=people.change,
            refuses=_NOT_FOUND,
        ),
        Operation(
            method="DELETE",
            path="/auth/me",
            name="delete_me",
            summary="Delete the user that asks: sessions, keys and the e-mail address; the account's books stay.",
            access=Access.PERSON,
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=DeletedUser,
            handle=people.delete,
            headers=(SESSION_COOKIE,),
            refuses=_NOT_FOUND,
        ),
        Operation(
            method="POST",
            path="/auth/password",
            name="change_password",
            summary="Choose another password, by the one so far or by a secret that works once; other sessions end.",
            access=Access.PUBLIC,
            counts=Counts.QUERY,
            query=Query,
            body=PasswordBody,
            answer=PasswordChanged,
            handle=people.password,
            refuses=_SIGN_IN
            | _NOT_FOUND
            | {"invalid_credentials", "missing_credentials", "insufficient_permissions", "missing_parameter"},
        ),
        Operation(
            method="GET",
            path="/auth/sessions",
            name="list_sessions",
            summary="List where the user is signed in.",
            access=Access.PERSON,
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=SessionList,
            handle=people.sessions,
        ),
        Operation(
            method="DELETE",
            path="/auth/sessions",
            name="end_other_sessions",
            summary="Sign the user out everywhere else.",
            access=Access.PERSON,
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=EndedSessions,
            handle=people.end_others,
        ),
        Operation(
            method="DELETE",
            path="/auth/sessions/{session_id}",
            name="end_session",
            summary="End one session of the user.",
            access=Access.PERSON,
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=EndedSessions,
            handle=people.end_session,
            refuses=_NOT_FOUND,
        ),
    ]


def _colleagues(people: PeopleDoor) -> list[AnyOperation]:
    """What owners do for the other users of their account."""
    return [
        Operation(
            method="GET",
            path="/auth/users",
            name="list_users",
            summary="List the users of the account, for an owner of it.",
            access=Access.PERSON,
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=UserList,
            handle=people.colleagues,
        ),
        Operation(
            method="POST",
            path="/auth/invitations",
            name="invite",
            summary="Make a secret by which somebody registers into the account of an owner, once.",
            access=Access.PERSON,
            counts=Counts.QUERY,
            query=Query,
            body=InvitationBody,
            answer=OneTimeSecretObject,
            handle=people.invite,
            statuses=(201,),
            refuses=frozenset({"registration_closed", "conflict", "not_found", "too_many_sign_ins"}),
        ),
        Operation(
            method="POST",
            path="/auth/users/{user_id}/password",
            name="let_choose_password",
            summary="Make a secret by which a user of an owner's account chooses a new password, once.",
            access=Access.PERSON,
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=OneTimeSecretObject,
            handle=people.let_choose_password,
            statuses=(201,),
            refuses=_NOT_FOUND,
        ),
    ]


_COMES_BACK: frozenset[Code] = _SIGN_IN | {
    "sign_in_failed", "issuer_unavailable", "registration_closed", "account_deactivated", "insufficient_permissions",
    "unsupported_region", "invalid_api_key", "expired_session", "invalid_credentials",
}  # fmt: skip
"""Of whoever comes back from an issuer: by what that says of them, and by what they are here."""


def _issuer_sign_in(issuer: IssuerSignIn) -> list[AnyOperation]:
    """At the root alone, where the issuer sends browsers back to; who comes for the first time is judged by country."""
    return [
        Operation(
            method="GET",
            path=START,
            name="oidc_start",
            summary="Lead a browser to the issuer, where its person signs in.",
            access=Access.OPEN,
            counts=Counts.NOTHING,
            query=StartQuery,
            body=Nothing,
            answer=RedirectObject,
            handle=issuer.start,
            statuses=(303,),
            headers=(LOCATION, SESSION_COOKIE),
            refuses=frozenset({"issuer_unavailable"}),
            prefixes=ROOT,
            is_for_people=True,
        ),
        Operation(
            method="GET",
            path=CALLBACK,
            name="oidc_callback",
            summary="Sign in whoever comes back from the issuer, in the browser that was led there.",
            access=Access.OPEN,
            counts=Counts.NOTHING,
            query=CallbackQuery,
            body=Nothing,
            answer=RedirectObject,
            handle=issuer.callback,
            statuses=(303,),
            headers=(LOCATION, SESSION_COOKIE),
            refuses=_COMES_BACK,
            prefixes=ROOT,
            is_for_people=True,
        ),
    ]


def _webhooks(webhooks: WebhookDoor) -> list[AnyOperation]:
    return [
        Operation(
            method="GET",
            path="/webhook",
            name="get_webhook",
            summary="Tell where the account is told of its budgets and its balance.",
            access=Access.ACCOUNT_HOLDER,
            scope="manage",
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=WebhookObject,
            handle=webhooks.get,
            refuses=_NOT_FOUND,
        ),
        Operation(
            method="PUT",
            path="/webhook",
            name="put_webhook",
            summary="Set where the account is told of its money; the secret of a new webhook is shown this once.",
            access=Access.ACCOUNT_HOLDER,
            scope="billing",
            counts=Counts.QUERY,
            query=Query,
            body=WebhookBody,
            answer=WebhookObject,
            handle=webhooks.put,
            refuses=_NOT_FOUND | {"invalid_value", "ledger_unavailable"},
        ),
        Operation(
            method="DELETE",
            path="/webhook",
            name="remove_webhook",
            summary="Tell the account no more, of what waits to be delivered neither.",
            access=Access.ACCOUNT_HOLDER,
            scope="billing",
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=RemovedWebhook,
            handle=webhooks.remove,
            refuses=_NOT_FOUND | {"ledger_unavailable"},
        ),
        Operation(
            method="POST",
            path="/webhook/rotate",
            name="rotate_webhook",
            summary="Make a new secret, which is shown this once; the former one signs beside it for a day.",
            access=Access.ACCOUNT_HOLDER,
            scope="billing",
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=WebhookObject,
            handle=webhooks.rotate,
            refuses=_NOT_FOUND | {"ledger_unavailable"},
        ),
    ]


def _attribution(attribution: AttributionDoor) -> list[AnyOperation]:
    return [
        Operation(
            method="GET",
            path="/attribution",
            name="get_attribution",
            summary="Tell whether requests are attributed to users and tags, and where these are looked for.",
            access=Access.ACCOUNT_HOLDER,
            scope="manage",
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=AttributionObject,
            handle=attribution.get,
        ),
        Operation(
            method="PUT",
            path="/attribution",
            name="put_attribution",
            summary="Have requests attributed to the users and tags that they name, from now on, or not.",
            access=Access.ACCOUNT_HOLDER,
            scope="billing",
            counts=Counts.QUERY,
            query=Query,
            body=AttributionBody,
            answer=AttributionObject,
            handle=attribution.put,
            refuses=frozenset({"ledger_unavailable"}),
        ),
    ]


def _of_account(run: Endpoints) -> list[AnyOperation]:
    """What administrators ask about each account, too: all but what is there twice for clients of others."""
    admin = run.admin
    own = [*_money(run.billing, run.statements), *_history(run), *_webhooks(admin.webhooks)]
    own += _auto_topups(admin.auto_topups)
    rows = {row.name: row for row in own}
    noted = replace(rows["transactions"], answer=NotedTransactionPage, handle=run.billing.noted_transactions)
    return [noted, *(rows[name] for name in _ASKED_BY_ADMINISTRATORS)]


def _keys_of_people(keys: Keys) -> list[AnyOperation]:
    """The same as under /keys, where people look for theirs."""
    return [replace(row, path="/auth/keys", name=f"auth_{row.name}") for row in _keys(keys) if row.path == "/keys"]


def _money(billing: Billing, statements: Statements) -> list[AnyOperation]:
    return [
        Operation(
            method="GET",
            path="/billing",
            name="billing",
            summary="Tell the wallet, and its usage of 30 days to keys that may read that.",
            access=Access.LIVE_HOLDER,
            scope="inference",
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=BillingObject,
            handle=billing.get,
            refuses=_REPORTED,
        ),
        Operation(
            method="GET",
            path="/billing/transactions",
            name="transactions",
            summary="List the account's ledger, the newest first.",
            access=Access.ACCOUNT_HOLDER,
            scope="read",
            counts=Counts.QUERY,
            query=TransactionsQuery,
            body=Nothing,
            answer=TransactionPage,
            handle=billing.transactions,
            media_types=EXPORTED,
            refuses=_REPORTED,
        ),
        Operation(
            method="GET",
            path="/billing/statements/{month}",
            name="statement",
            summary="Tell what a month did to the wallet, as JSON, CSV or a page to print.",
            access=Access.ACCOUNT_HOLDER,
            scope="read",
            counts=Counts.QUERY,
            query=StatementQuery,
            body=Nothing,
            answer=StatementObject,
            handle=statements.get,
            media_types=tuple(MEDIA_TYPES.values()),
            refuses=_REPORTED | _NOT_FOUND | {"invalid_value"},
        ),
        Operation(
            method="GET",
            path="/credits",
            name="credits",
            summary="Tell the wallet.",
            access=Access.LIVE_HOLDER,
            scope="inference",
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=CreditsObject,
            handle=billing.credits,
        ),
        Operation(
            method="GET",
            path="/credits/transactions",
            name="credit_transactions",
            summary="List deposits and deductions: the ledger without the holds of earlier releases.",
            access=Access.ACCOUNT_HOLDER,
            scope="read",
            counts=Counts.QUERY,
            query=TransactionsQuery,
            body=Nothing,
            answer=TransactionPage,
            handle=billing.credit_transactions,
            media_types=EXPORTED,
            refuses=_REPORTED,
        ),
    ]


def _payments(topups: TopUps) -> list[AnyOperation]:
    refuses: frozenset[Code] = frozenset({"not_configured", "payments_unavailable", "invalid_value"})
    return [
        Operation(
            method="POST",
            path="/billing/checkout",
            name="checkout",
            summary="Begin a payment into the wallet, on a page of Stripe's.",
            access=Access.HOLDER,
            scope="billing",
            counts=Counts.QUERY,
            query=Query,
            body=CheckoutBody,
            answer=CheckoutObject,
            handle=topups.checkout,
            statuses=(201,),
            refuses=refuses | _ONCE,
        ),
        Operation(
            method="POST",
            path="/billing/portal",
            name="portal",
            summary="Open Stripe's page of what was paid.",
            access=Access.ACCOUNT_HOLDER,
            scope="billing",
            counts=Counts.QUERY,
            query=Query,
            body=Empty,
            answer=PortalObject,
            handle=topups.portal,
            statuses=(201,),
            refuses=refuses | _ONCE | _NOT_FOUND,
        ),
        Operation(
            method="POST",
            path="/billing/webhook",
            name="stripe_event",
            summary="Take an event of Stripe's.",
            access=Access.SIGNED,
            counts=Counts.NOTHING,
            query=AnyQuery,
            body=bytes,
            answer=Receipt,
            handle=topups.webhook,
            refuses=refuses,
        ),
    ]


def _auto_topups(auto_topups: AutoTopUpDoor) -> list[AnyOperation]:
    return [
        Operation(
            method="GET",
            path="/billing/auto-topup",
            name="get_auto_topup",
            summary="Tell by how much the account is topped up by itself, and below which balance.",
            access=Access.ACCOUNT_HOLDER,
            scope="billing",
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=AutoTopUpObject,
            handle=auto_topups.get,
        ),
        Operation(
            method="PUT",
            path="/billing/auto-topup",
            name="put_auto_topup",
            summary="Have the account topped up by itself, by its saved payment method, once its balance is low.",
            access=Access.ACCOUNT_HOLDER,
            scope="billing",
            counts=Counts.QUERY,
            query=Query,
            body=AutoTopUpBody,
            answer=AutoTopUpObject,
            handle=auto_topups.put,
            refuses=frozenset({"conflict", "invalid_value", "ledger_unavailable", "not_configured"}),
        ),
        Operation(
            method="DELETE",
            path="/billing/auto-topup",
            name="remove_auto_topup",
            summary="Have the account topped up by itself no more.",
            access=Access.ACCOUNT_HOLDER,
            scope="billing",
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=RemovedAutoTopUp,
            handle=auto_topups.remove,
            refuses=_NOT_FOUND | {"ledger_unavailable"},
        ),
    ]


def _no_payments(topups: TopUps) -> list[AnyOperation]:
    """The same, refused before anything is read of them."""
    return [replace(row, body=Nothing, handle=topups.refuse) for row in _payments(topups)]


def _history(run: Endpoints) -> list[AnyOperation]:
    """`/usage` is totals in one API and the log in the other."""
    return [
        Operation(
            method="GET",
            path="/requests",
            name="list_requests",
            summary="List the account's requests that have ended, the newest first.",
            access=Access.HOLDER,
            scope="read",
            counts=Counts.QUERY,
            query=RequestsQuery,
            body=Nothing,
            answer=RequestPage,
            handle=run.requests.list,
            media_types=EXPORTED,
            refuses=_REPORTED,
        ),
        Operation(
            method="GET",
            path="/requests/{request_id}",
            name="get_request",
            summary="Tell of one request that has ended.",
            access=Access.HOLDER,
            scope="read",
            counts=Counts.QUERY,
            query=Query,
            body=Nothing,
            answer=RequestObject,
            handle=run.requests.get,
            refuses=_NOT_FOUND | _REPORTED,
        ),
        Operation(
            method="GET",
            path="/generation",
            name="generation",
            summary="Tell what one request used and cost, as OpenRouter's clients know it.",
            access=Access.HOLDER,
            scope="read",
            counts=Counts.QUERY,
            query=GenerationQuery,
            body=Nothing,
            answer=GenerationObject,
            handle=run.generations.get,
            refuses=_NOT_FOUND | _REPORTED | {"invalid_value"},
        ),
        Operation(
            method="POST",
            path="/feedback",
            name="feedback",
            summary="Say how good the answer was to a request that named no model.",
            access=Access.HOLDER,
            scope="inference",
            counts=Counts.QUERY,
            query=Query,
            body=FeedbackBody,
            answer=FeedbackObject,
            handle=run.feedback.give,
            refuses=_NOT_FOUND | {"insufficient_permissions", "invalid_value"},
        ),
        Operation(
            method="GET",
            path="/key",
            name="current_key",
            summary="Tell what the key that asks may spend and has spent, as OpenRouter's clients know it.",
            access=Access.HOLDER,
            counts=Counts.QUERY,
            query=AnyQuery,
            body=Nothing,
            answer=CurrentKeyObject,
            handle=run.current_key.get,
            refuses=_REPORTED | _NOT_FOUND,
        ),
        Operation(
            method="GET",
            path="/usage",
            name="usage",
            summary="Sum up requests, tokens and cost by hour, day, month, model, key, surface, status or task.",
            access=Access.HOLDER,
            scope="read",
            counts=Counts.QUERY,
            query=UsageQuery,
            body=Nothing,
            answer=UsageReport,
            handle=run.usage.get,
            media_types=EXPORTED,
            refuses=_REPORTED,
            prefixes=(OPENAI,),
        ),
        Operation(
            method="GET",
            path="/usage",
            name="usage_log",
            summary="List the account's requests that have ended, the newest first.",
            access=Access.HOLDER,
            scope="read",
            counts=Counts.QUERY,
            query=RequestsQuery,
            body=Nothing,
            answer=RequestPage,
            handle=run.requests.list,
            media_types=EXPORTED,
            refuses=_REPORTED,
            prefixes=(INFERENCE,),
        ),
    ]


def _stats(stats: Stats) -> AnyOperation:
    return page_at_root(
        "/stats",
        "stats",
        "Tell how the gateway is, for a status page.",
        StatsObject,
        stats.get,
        prefixes=_EVERYWHERE,
    )


_ETAG = AnswerHeader("ETag", "string", "Of the public status: a name of this answer, for `If-None-Match`.")


def _status(status: StatusDoor) -> list[AnyOperation]:
    """Beside the page of the console, for monitors, readers of feeds and other sites."""
    rows: list[AnyOperation] = [
        page_at_root(
            f"{STATUS_PATH}/summary.json",
            "status_summary",
            "Tell how each part of the service is, as Statuspage does.",
            StatusSummary,
            status.summary,
            statuses=(200, 304),
            is_for_all_pages=True,
        ),
        page_at_root(
            f"{STATUS_PATH}/history.atom",
            "status_history",
            "Tell what was told of incidents and maintenance in the last 90 days, as an Atom feed.",
            bytes,
            status.history,
            statuses=(200, 304),
            media_types=(ATOM,),
            is_for_all_pages=True,
        ),
        page_at_root(
            f"{STATUS_PATH}/badge.svg",
            "status_badge",
            "Draw how the service is, for a page elsewhere.",
            bytes,
            status.badge,
            statuses=(200, 304),
            media_types=(SVG,),
            is_for_all_pages=True,
        ),
    ]
    return [replace(row, headers=(_ETAG,)) for row in rows]


def _root(run: Endpoints) -> list[AnyOperation]:
    return [
        page_at_root(
            "/",
            "welcome",
            "Tell what this is and where its doors are; a browser that asks for HTML gets a page.",
            WelcomeObject,
            run.welcome.get,
            media_types=("application/json", HTML),
        ),
        page_at_root(
            "/health",
            "health",
            "Tell whether the gateway serves; its operator is told why not.",
            HealthObject,
            run.health.get,
            statuses=(200, 503),
        ),
        page_at_root(
            "/readyz",
            "ready",
            "Tell a load balancer whether to send requests here.",
            HealthObject,
            run.health.ready,
            statuses=(200, 503),
        ),
        page_at_root(
            "/livez",
            "live",
            "Tell that the process is alive.",
            HealthObject,
            run.health.live,
        ),
        page_at_root(
            "/metrics",
            "metrics",
            "Tell Prometheus, with the operator's token or from the same machine.",
            bytes,
            run.metrics.get,
            media_types=(CONTENT_TYPE,),
            refuses=frozenset({"missing_credentials", "insufficient_permissions"}),
        ),
    ]
