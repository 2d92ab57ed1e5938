"""The one error of the gateway and THE table that gives each code its HTTP status, type and advice.

Both doors render from here: HTTP as `{"error": {...}}` (OpenAI's shape), MCP as a tool error with the same facts.
Codes are OpenAI's words where it has one.
"""

import traceback
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Row:
    """What a code means to a caller: HTTP status, OpenAI error type, and what to do next (in words for a model)."""

    status: int
    type: str
    advice: str
    retry_after_s: int | None = None


_FIX = "Change the request as the message says and send it again."
_KEY = "Ask the person who set this up for a valid API key; do not retry with the same one."
_LATER = "Wait for retry_after_s seconds, then send the same request again."
_OTHER_MODEL = "Try again shortly, or choose another model with list_models."
_PAY = "Ask the person who owns the account to top it up; get_balance shows what is left."
_BUDGET = "Wait until the budget starts anew (starts_anew_at), or ask the person who set it to raise it."
_HELD = (
    "Wait for retry_after_s seconds, or until one of your running requests has ended, then send the same request again."
)
_OPERATOR = "Only the operator of this gateway can change that."

Code = Literal[
    "invalid_json", "invalid_type", "missing_parameter", "unsupported_parameter", "invalid_value",
    "context_length_exceeded", "vision_disabled", "invalid_image_url", "sign_in_failed", "invalid_api_key",
    "revoked_api_key", "expired_api_key", "expired_session", "invalid_credentials", "missing_credentials",
    "insufficient_balance", "below_minimum_balance", "budget_exhausted", "balance_held", "insufficient_quota",
    "content_policy", "unsupported_region", "account_deactivated", "insufficient_permissions", "insufficient_scope",
    "ip_not_authorized", "registration_closed", "sign_in_elsewhere", "foreign_origin", "guests_not_allowed",
    "model_not_found", "unknown_url", "unsupported_endpoint", "not_found", "method_not_allowed", "conflict",
    "body_too_large", "unsupported_encoding", "unknown_host", "idempotency_mismatch", "headers_too_large",
    "requests_per_minute", "requests_per_day", "tokens_per_minute", "in_flight", "guest", "too_many_sign_ins",
    "backend_busy", "client_closed", "internal_error", "not_configured", "unknown_method",
    "unsupported_transfer_coding", "connect_failed", "first_token_timeout", "backend_error", "backend_died",
    "payments_unavailable", "draining", "maintenance", "model_unavailable", "ledger_unavailable",
    "issuer_unavailable", "overloaded", "unsupported_version",
]  # fmt: skip
"""Every code there is; TABLE has a row for each."""

TABLE: dict[Code, Row] = {
    "invalid_json": Row(400, "invalid_request", _FIX),
    "invalid_type": Row(400, "invalid_request", _FIX),
    "missing_parameter": Row(400, "invalid_request", _FIX),
    "unsupported_parameter": Row(400, "invalid_request", _FIX),
    "invalid_value": Row(400, "invalid_request", _FIX),
    "context_length_exceeded": Row(400, "invalid_request", "Shorten the messages or lower max_tokens."),
    "vision_disabled": Row(400, "invalid_request", "Send the request without images."),
    "invalid_image_url": Row(400, "invalid_request", "Name the image by another address, or send it as a data: URI."),
    "sign_in_failed": Row(400, "invalid_request", "Begin the sign-in again."),
    "invalid_api_key": Row(401, "invalid_auth", _KEY),
    "revoked_api_key": Row(401, "invalid_auth", _KEY),
    "expired_api_key": Row(401, "invalid_auth", _KEY),
    "expired_session": Row(401, "invalid_auth", "Sign in again."),
    "invalid_credentials": Row(401, "invalid_auth", "Check the e-mail address and the password."),
    "missing_credentials": Row(401, "invalid_auth", _KEY),
    "insufficient_balance": Row(402, "insufficient_balance", _PAY),
    "below_minimum_balance": Row(402, "insufficient_balance", _PAY),
    "budget_exhausted": Row(402, "insufficient_balance", _BUDGET),
    "insufficient_quota": Row(402, "insufficient_balance", _PAY),  # told of those above where OpenAI's word is known
    "content_policy": Row(403, "content_policy", "Do not send this content again."),
    "unsupported_region": Row(403, "unsupported_region", _OPERATOR),
    "account_deactivated": Row(403, "forbidden", _OPERATOR),
    "insufficient_permissions": Row(403, "forbidden", _OPERATOR),
    "insufficient_scope": Row(403, "forbidden", "Use a key that has the scope which the message names."),
    "ip_not_authorized": Row(403, "forbidden", "Ask from an address that this key may be used from."),
    "registration_closed": Row(403, "forbidden", "Ask whoever runs the gateway, or an account's owner, to invite you."),
    "sign_in_elsewhere": Row(403, "forbidden", "Sign in by the issuer that the message names."),
    "foreign_origin": Row(403, "forbidden", "Send this from a page of the gateway itself, or from a program."),
    "guests_not_allowed": Row(403, "forbidden", "Send an API key, or choose a model that guests may use."),
    "model_not_found": Row(404, "not_found", "Choose a model id from list_models."),
    "unknown_url": Row(404, "not_found", "Check the path against the documentation."),
    "unsupported_endpoint": Row(404, "not_found", "Do without it: this gateway does not have that part of the API."),
    "not_found": Row(404, "not_found", "Check the id."),
    "method_not_allowed": Row(405, "invalid_request", "Use one of the methods in the Allow header."),
    "conflict": Row(409, "invalid_request", _FIX),
    "body_too_large": Row(413, "invalid_request", "Send a smaller request body."),
    "unsupported_encoding": Row(415, "invalid_request", "Send the body as it is, or compressed as the message says."),
    "unknown_host": Row(421, "invalid_request", _OPERATOR),
    "idempotency_mismatch": Row(422, "invalid_request", "Use a new Idempotency-Key for a different body."),
    "headers_too_large": Row(431, "invalid_request", "Send fewer or shorter headers."),
    "requests_per_minute": Row(429, "rate_limited", _LATER, retry_after_s=60),
    "requests_per_day": Row(429, "rate_limited", "The daily limit is used up; try again after midnight UTC."),
    "tokens_per_minute": Row(429, "rate_limited", _LATER, retry_after_s=60),
    "in_flight": Row(429, "rate_limited", "Wait until one of your running requests has ended.", retry_after_s=1),
    "guest": Row(429, "rate_limited", "Wait for retry_after_s seconds, or use an API key.", retry_after_s=60),
    "too_many_sign_ins": Row(429, "rate_limited", _LATER, retry_after_s=60),
    "backend_busy": Row(429, "rate_limited", _LATER, retry_after_s=2),
    "balance_held": Row(429, "insufficient_balance", _HELD, retry_after_s=5),
    "client_closed": Row(499, "client_closed", "Nothing: the client left."),  # recorded only; nginx's status for it
    "internal_error": Row(500, "internal_error", "Report the request id to the operator of this gateway."),
    "not_configured": Row(501, "not_configured", _OPERATOR),
    "unknown_method": Row(501, "invalid_request", "Use a method of HTTP/1.1 that the documentation names."),
    "unsupported_transfer_coding": Row(501, "invalid_request", "Send the body with Content-Length, or chunked alone."),
    "connect_failed": Row(502, "backend_unavailable", _OTHER_MODEL),
    "first_token_timeout": Row(502, "backend_unavailable", _OTHER_MODEL),
    "backend_error": Row(502, "backend_unavailable", _OTHER_MODEL),
    "backend_died": Row(502, "backend_unavailable", _OTHER_MODEL),
    "payments_unavailable": Row(502, "backend_unavailable", "Try again shortly; nothing was paid."),
    "draining": Row(503, "draining", _LATER, retry_after_s=5),
    "maintenance": Row(503, "maintenance", _LATER, retry_after_s=60),
    "model_unavailable": Row(503, "model_unavailable", _OTHER_MODEL, retry_after_s=5),
    "ledger_unavailable": Row(503, "maintenance", _LATER, retry_after_s=5),
    "issuer_unavailable": Row(503, "maintenance", _LATER, retry_after_s=5),
    "overloaded": Row(503, "overloaded", _LATER, retry_after_s=5),
    "unsupported_version": Row(505, "invalid_request", "Speak HTTP/1.1."),
}


class GatewayError(Exception):
    """A refusal or failure that a caller is told about; everything else is a bug and becomes `internal_error`.

    `message` says what to change and never holds a secret or another caller's content; it is shown to the caller and
    never logged or stored. `details` are further public fields of the error object.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(code)
        row = TABLE[code]
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = row.retry_after_s if retry_after_s is None else retry_after_s
        self.details = details or {}

    @property
    def row(self) -> Row:
        return TABLE[self.code]

    @property
    def status(self) -> int:
        return self.row.status

    def as_object(self) -> dict[str, Any]:
        """The `error` object of OpenAI's shape: message, type, code, param and any details."""
        return {
            "message": self.message,
            "type": self.row.type,
            "code": self.code,
            "param": self.param,
            **self.details,
        }

    @property
    def wait_told(self) -> dict[str, int]:
        """`retry_after_s`, where waiting helps: a further field for whoever reads no header `Retry-After`."""
        return {} if self.retry_after_s is None else {"retry_after_s": self.retry_after_s}


def outline(bug: BaseException) -> str:
    """What kind of error a bug is and where it happened, for the log; never its text, which may quote a caller."""
    return f"{type(bug).__name__}\n{''.join(traceback.format_tb(bug.__traceback__))}"


def internal_error(request_id: str) -> GatewayError:
    """What a caller sees of a bug: nothing but the id to report."""
    return GatewayError("internal_error", f"Something went wrong on our side. Request id: {request_id}.")
