"""`mcp-gateway ledger reconcile`: what was billed beside what the backends had counted of themselves."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from mcp_gateway.cli.desk import (
    LISTED_CHARS,
    ConfigOption,
    DataDirOption,
    JsonOption,
    answer,
    at_desk,
    fail,
    seconds,
    settings_of,
)
from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.moments import unix_ms
from mcp_gateway.core.observe.differences import Comparison, Reason, ReasonName
from mcp_gateway.core.observe.reconciliation import Reconciliation, Uncompared
from mcp_gateway.core.observe.uses import Tokens
from mcp_gateway.core.text import shown

_WORDS: dict[ReasonName, str] = {
    "aborted": "ended by their caller or key, which a backend learns a moment later",
    "cut": "cut where their money ended, which a backend learns a moment later",
    "estimated": "billed by an estimate, since the backend told no usage",
    "failed": "failed or refused, of which less or nothing is billed",
    "failed_over": "failed at this backend, and were sent to another one",
    "ran_at_the_border": "ran as the first or the last sample was taken",
    "still_running": "have no bill yet",
    "backend_restarted": "starts of the backend, which forgot what it had counted since the sample before",
    "restarted": "starts of the gateway: what ran when it was killed has no bill",
    "several_choices": "more choices of requests with n above 1, whose prompt counts once for each",
    "cached_not_told": "whose backend told no cached tokens (--enable-prompt-tokens-details)",
    "by_others": "not by this gateway",
}


def reconcile_ledger(
    since: Annotated[str | None, typer.Option(help="From when, in ISO 8601; otherwise a day before the end.")] = None,
    until: Annotated[str | None, typer.Option(help="Until when; otherwise now.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Compare what was billed with what the backends had counted; exits with 1 where a difference has no reason."""
    until_ms = _moment("--until", until, now_ms())
    since_ms = _moment("--since", since, until_ms - DAY_MS)
    if since_ms > until_ms:
        fail("--since must not be later than --until, which is now where it is left out")
    settings = settings_of(config, data_dir)
    backend_models = {model.id: model.backend_model or model.id for model in settings.models}

    async def work(desk: Desk) -> None:
        found = await desk.reconciler.reconcile(since_ms, until_ms, backend_models)
        if not found.comparisons:
            fail(
                f"no backend's counters were read twice between {_time(since_ms)} and {_time(until_ms)}: a gateway "
                "that serves reads them every upstream.discovery_interval_s, where its backends have /metrics"
            )
        for one in found.comparisons:
            if one.unexplained.distance:
                typer.echo(f"{_name(one)}: {_differences(one.unexplained, one)} for no known reason", err=True)
        answer("\n".join(_lines(found)), _object(found), is_json=is_json)
        if not found.is_explained:
            raise typer.Exit(1)

    at_desk(config, data_dir, work)


def _moment(option: str, text: str | None, otherwise_ms: int) -> int:
    try:
        return max(0, otherwise_ms) if text is None else unix_ms(text)
    except ValueError as error:
        fail(f"{option} {error}")


def _lines(found: Reconciliation) -> Iterator[str]:
    for one in found.comparisons:
        yield f"{_name(one)}, {_time(one.since_ms)} to {_time(one.until_ms)}: {_requests(one.requests)}"
        for kind, counted, billed in _kinds(one):
            yield f"  {kind:<11}counted {counted:>12}  billed {billed:>12}  difference {counted - billed:+}"
        yield from (f"  {_times(reason)}: {_WORDS[reason.name]}" for reason in one.reasons)
    for left in found.uncompared:
        name = f"{left.backend} {shown(left.model or '(no model)', LISTED_CHARS)}"
        yield f"{name}: {_requests(left.requests)} not compared, since it told no counters of that name"


def _name(one: Comparison) -> str:
    public = shown(", ".join(one.models), LISTED_CHARS)
    return f"{one.backend} {shown(one.model, LISTED_CHARS)}" + (f" ({public})" if public else "")


def _kinds(one: Comparison) -> list[tuple[str, int, int]]:
    names = ("prompt", "completion", *(("cached",) if one.counts_cached else ()))
    return list(zip(names, one.counted.kinds, one.billed.kinds, strict=False))


def _differences(tokens: Tokens, one: Comparison) -> str:
    named = [f"{number:+} {kind}" for (kind, *_), number in zip(_kinds(one), tokens.kinds, strict=False) if number]
    return f"counted less billed is {', '.join(named)} tokens"


def _times(reason: Reason) -> str:
    return f"{reason.name}" if reason.times is None else f"{reason.name}, {reason.times}"


def _requests(number: int) -> str:
    return f"{number} request{'' if number == 1 else 's'}"


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _object(found: Reconciliation) -> dict[str, Any]:
    return {
        "is_explained": found.is_explained,
        "comparisons": [_comparison(one) for one in found.comparisons],
        "not_compared": [_uncompared(one) for one in found.uncompared],
    }


def _comparison(one: Comparison) -> dict[str, Any]:
    return {
        "backend": one.backend,
        "backend_model": one.model,
        "models": list(one.models),
        "since": seconds(one.since_ms),
        "until": seconds(one.until_ms),
        "requests": one.requests,
        "counted": _tokens(one.counted, one),
        "billed": _tokens(one.billed, one),
        "difference": _tokens(one.difference, one),
        "reasons": [{"reason": reason.name, "times": reason.times} for reason in one.reasons],
        "unexplained": _tokens(one.unexplained, one),
    }


def _tokens(tokens: Tokens, one: Comparison) -> dict[str, int | None]:
    return {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "cached_tokens": tokens.cached if one.counts_cached else None,
    }


def _uncompared(one: Uncompared) -> dict[str, Any]:
    billed = {"prompt_tokens": one.billed.prompt, "completion_tokens": one.billed.completion}
    return {"backend": one.backend, "model": one.model, "requests": one.requests, "billed": billed}
