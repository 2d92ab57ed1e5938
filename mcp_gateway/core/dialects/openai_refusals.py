"""What providers say when they refuse: read in whatever shape, told apart by the rules of a row, worded for a caller.

An error that is the operator's (money, key, a model that is not there) never reaches a caller in its own words.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import ceil
from typing import Any

import orjson

from mcp_gateway.core.blame import OperatorFault
from mcp_gateway.core.dialects import vllm_refusals
from mcp_gateway.core.dialects.redaction import without_places
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.provider_settings import Preset
from mcp_gateway.core.surfaces.error_shapes import error_alone, error_in, failure_in, failure_of
from mcp_gateway.core.surfaces.surface import Failure
from mcp_gateway.core.text import shown

_MESSAGE_CHARS = 500
_MOST_WAIT_S = 3600
_UNTOLD_WAIT_S = 1
"""Where nobody says for how long: one request must not keep all others away."""
_RETRY_INFO = re.compile(rb'"retryDelay":\s?"(\d{1,6})(?:\.\d{1,9})?s"')
_WORD = re.compile(r"""[^\s"'`<>()\[\]{},;=|]+""")
_ACCOUNT_NAMES = frozenset({
    "acct", "apikey", "chatcmpl", "gsk", "key", "msg", "org", "proj", "req", "resp", "sk", "team", "user", "wrkspc",
})  # fmt: skip
"""How the names of accounts, keys and requests begin there."""
_DRAWN = re.compile(r"\d|[a-z][A-Z]")
"""What a name has that was drawn and not thought up."""
_MAIL_ADDRESS = re.compile(r"[^@/]+@[^@/.]+\.[^@/]+")
_HEX = frozenset("0123456789abcdef-")
_LEAST_NAME_CHARS, _LEAST_HEX_CHARS = 4, 24
_TOO_LONG = (
    "context_length_exceeded", "maximum context length", "too many tokens", "context window", "prompt is too long",
    "exceed context limit",
)  # fmt: skip
_OVER_LIMIT = re.compile(r"exceed context limit: (\d{1,9}) \+ \d{1,9} > (\d{1,9})")
"""How Anthropic says that prompt and limit exceed the window."""
_OF_CHATS = "messages"
"""What a chat calls its prompt."""
_OF_SURFACE = "endpoint"
"""Where OpenAI says of a model that it is there for other surfaces."""
_CALLER_S = (400, 404, 409, 413, 415, 422)
_UNTOLD_STATUS = HTTPStatus.INTERNAL_SERVER_ERROR
"""What stands for the status of an error that came with a 200 and names none."""
_STATUS_FIRST = re.compile(r"(?:HTTP |Error code: )?([45]\d\d)(?: - |: | )")
"""How those begin that pass on the words of another."""
_NO_MODEL = ("model_not_found", "model_decommissioned", "invalid_model", "not_found_error", "resource_not_found_error")


def read_failure(status: int, body: bytes) -> Failure:
    """What an error body of any shape tells; its kind has the code and the type, for the rules of a row."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Failure(status, "", _retry_info(body))
    error = error_object(parsed) or {}
    kind = f"{kind_of_error(error)} {_retry_info(body)}".strip()
    return failure_of(status, error)._replace(kind=kind)


def failure_told(error: dict[str, Any]) -> Failure:
    """What an error tells that came with a status of 200; its kind has all of its names, for the rules of a row."""
    status = error.get("status_code")
    told = failure_in(error if status is None else {"code": status, "message": error.get("message")})
    return told._replace(kind=kind_of_error(error))


def kind_of_error(error: dict[str, Any]) -> str:
    """All by which an error names itself."""
    names = [str(error[name]) for name in ("code", "type", "status") if isinstance(error.get(name), str | int)]
    return " ".join(shown(name).replace(" ", "_") for name in (*names, *_reasons(error)))


def error_object(told: Any) -> dict[str, Any] | None:
    """The error that parsed JSON tells: also in a list of one, or Cloudflare's envelope; None where it tells none."""
    if isinstance(told, list):
        told = told[0] if told else {}
    if not isinstance(told, dict):
        return {"message": told} if isinstance(told, str) else None
    errors = told.get("errors")
    if isinstance(errors, list) and errors and not told.get("choices"):
        return errors[0] if isinstance(errors[0], dict) else {"message": errors[0]}
    if told.get("success") is False:
        return {}
    error = error_in(told)
    if error is not None and isinstance(error.get("message"), dict):
        return error | {"message": error["message"].get("message") or error["message"].get("detail")}
    return error


def _reasons(error: dict[str, Any]) -> list[str]:
    """Google's reasons, which stand in details."""
    details = error.get("details")
    found = [one.get("reason") for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    return [reason for reason in found if isinstance(reason, str)]


def _retry_info(body: bytes) -> str:
    found = _RETRY_INFO.search(body)
    return f"retry={int(found[1]) + 1}" if found is not None else ""


def error_of(
    failure: Failure,
    row: Preset,
    backend_model: str,
    public_model: str,
    retry_after: bytes | None,
    prompt_field: str = _OF_CHATS,
) -> GatewayError:
    """The gateway's error for what a provider told.

    A 404 may be for the surface, whose model is there for others: of a chat where it says so, else in any case.
    """
    failure = _as_meant(failure)
    status, message, kind, param = failure
    if (of_operator := _operator_error(failure, row, public_model, retry_after)) is not None:
        return of_operator
    is_absent = status == HTTPStatus.NOT_FOUND and param in (None, "model")
    is_for_surface = prompt_field != _OF_CHATS or _OF_SURFACE in message
    if any(name in kind for name in _NO_MODEL) or (is_absent and not is_for_surface):
        return OperatorFault("model", public_model)
    if is_absent:
        return GatewayError("unsupported_endpoint", f"{public_model!r} cannot be asked for this.", param="model")
    if status in _CALLER_S:
        return _refusal(status, _cleaned(message, backend_model, public_model), kind, param, prompt_field)
    return GatewayError("backend_error", f"The backend of {public_model!r} failed (status {status}).")


def _as_meant(failure: Failure) -> Failure:
    """With the status by which its words begin, where no field names one; behind it may stand the error as JSON.

    Without either, a prompt that is too long is its caller's, and no failure of the provider.
    """
    if failure.status != _UNTOLD_STATUS:
        return failure
    found = _STATUS_FIRST.match(failure.message)
    if found is None:
        is_caller_s = _is_too_long(failure.message, failure.kind)
        return failure._replace(status=HTTPStatus.BAD_REQUEST) if is_caller_s else failure
    status, words = int(found[1]), failure.message[found.end() :]
    inner = error_alone(words.encode("utf-8", "replace"), error_object)
    if inner is None:
        return failure._replace(status=status, message=words)
    return failure_of(status, inner)._replace(kind=kind_of_error(inner))


def path_error_of(row: Preset, provider: str, status: int, body: bytes, retry_after: bytes | None) -> GatewayError:
    """The same of what was asked by a path of the provider's own: which model that is, its caller has said."""
    failure = read_failure(status, body)
    if (of_operator := _operator_error(failure, row, provider, retry_after)) is not None:
        return of_operator
    message = _cleaned(failure.message, provider, provider)
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.GONE):
        return GatewayError("not_found", message)
    if status in _CALLER_S:
        return _refusal(status, message, failure.kind, failure.param, _OF_CHATS)
    return GatewayError("backend_error", f"{provider} failed (status {status}).")


def _operator_error(failure: Failure, row: Preset, public_model: str, retry_after: bytes | None) -> GatewayError | None:
    """For what the operator's account, key or limits there are the reason; None for all else."""
    status, _, kind, _ = failure
    if _is_of(row.money_errors, failure):
        return OperatorFault("money", public_model)
    if _is_of(row.busy_errors, failure):
        return _busy("model_unavailable", f"The provider of {public_model!r} is full at the moment.", retry_after, kind)
    if _is_of(row.limit_errors, failure):
        return _busy("backend_busy", f"{public_model!r} is asked too often; try again later.", retry_after, kind)
    if _is_of(row.key_errors, failure):
        return OperatorFault("key" if status == HTTPStatus.UNAUTHORIZED else "access", public_model)
    return None


def _is_of(rules: Sequence[str], failure: Failure) -> bool:
    """Whether a rule is for it: by its status, and by a code or type, or by several words that its own begin with.

    Words tell enough where no status was told.
    """
    names = failure.kind.split(" ")
    for rule in rules:
        wanted, _, code = rule.partition(" ")
        is_said = " " in code and failure.message.startswith(code)
        if is_said and failure.status == _UNTOLD_STATUS:
            return True
        if wanted in ("*", str(failure.status)) and (not code or code in names or is_said):
            return True
    return False


def window_told(refusal: GatewayError) -> int | None:
    """The window that a refusal of a prompt names: OpenAI says it as vLLM does, which has it from there."""
    found = _OVER_LIMIT.search(refusal.message)
    return vllm_refusals.window_told(refusal) if found is None else int(found[2])


def prompt_told(refusal: GatewayError) -> int | None:
    """The prompt's tokens that such a refusal names."""
    found = _OVER_LIMIT.search(refusal.message)
    return vllm_refusals.prompt_told(refusal) if found is None else int(found[1])


def _busy(code: Any, message: str, retry_after: bytes | None, kind: str) -> GatewayError:
    _, is_told, seconds = kind.partition("retry=")
    wait_s = _wait_s(retry_after) or (int(seconds.split(" ")[0]) if is_told else _UNTOLD_WAIT_S)
    return GatewayError(code, message, retry_after_s=min(max(wait_s, 1), _MOST_WAIT_S))


def _wait_s(retry_after: bytes | None) -> int | None:
    """The seconds of a Retry-After, which may have decimals or be a date; None where it is none."""
    text = (retry_after or b"")[:64].decode("ascii", "replace").strip()
    if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", text):
        return ceil(float(text))
    try:
        at = parsedate_to_datetime(text)
        return ceil(at.timestamp() - datetime.now(UTC).timestamp())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _refusal(status: int, message: str, kind: str, param: str | None, prompt_field: str) -> GatewayError:
    if _is_too_long(message, kind):
        return GatewayError("context_length_exceeded", message, param=prompt_field)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return GatewayError("body_too_large", "The provider takes no request of this size.")
    code: Any = "unsupported_parameter" if "unsupported_parameter" in kind else "invalid_value"
    return GatewayError(code, message, param=None if param is None else shown(param))


def _is_too_long(message: str, kind: str) -> bool:
    return any(words in message.lower() or words in kind for words in _TOO_LONG)


def _cleaned(message: str, backend_model: str, public_model: str) -> str:
    """What it says, without its addresses, and the names of the operator's account, keys and requests."""
    text = _WORD.sub(lambda found: "…" if _is_the_operator_s(found[0]) else found[0], message)
    text = re.sub(rf"(?<![\w/.-]){re.escape(backend_model)}(?![\w/-])", lambda _: public_model, text)
    text = without_places(text).strip() or "The provider refused the request."
    return text if len(text) <= _MESSAGE_CHARS else text[:_MESSAGE_CHARS] + "…"


def _is_the_operator_s(word: str) -> bool:
    """Whether it is an address, or names an account, a key or a request."""
    bare = word.rstrip(".:!?")
    kind, _, name = bare.replace("_", "-").partition("-")
    is_named = kind.lower() in _ACCOUNT_NAMES and len(name) >= _LEAST_NAME_CHARS and _DRAWN.search(name) is not None
    is_hex = len(bare) >= _LEAST_HEX_CHARS and _HEX.issuperset(bare.lower())
    return "://" in bare or is_named or is_hex or _MAIL_ADDRESS.fullmatch(bare) is not None
