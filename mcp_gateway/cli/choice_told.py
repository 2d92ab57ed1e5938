"""A decision on a prompt in words and as JSON: its task, the scores of who may answer, and why others may not."""

from collections.abc import Mapping, Sequence
from typing import Any

from mcp_gateway.cli.desk import LISTED_CHARS
from mcp_gateway.core.catalog import Catalog
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.routing.deciding import Decision, Scored
from mcp_gateway.core.routing.eligibility import IN_WORDS
from mcp_gateway.core.text import shown

_HEAD = f"  {'model':<40}{'score':>8}{'quality':>9}{'rate':>7}{'outcomes':>10}{'cost_usd':>14}{'seconds':>9}"
_SPEEDS_UNKNOWN = "how quick models are is known to a running server alone: here all are alike"


def choice_in_words(decision: Decision, others: Mapping[str, str]) -> str:
    """The models in the order in which they would be asked, and `others` with why they would not."""
    reading = decision.reading
    return "\n".join([
        f"task        {reading.task}, with a confidence of {reading.confidence:.2f}",
        f"complexity  {reading.complexity} (work {reading.work:.2f})",
        f"mode        {decision.mode}",
        "",
        *([_HEAD, *map(_line, decision.candidates)] if decision.candidates else ["no model may answer"]),
        *(f"- {shown(name, LISTED_CHARS):<38}  {reason}" for name, reason in others.items()),
        _SPEEDS_UNKNOWN,
    ])  # fmt: skip


def choice_as_facts(decision: Decision, others: Mapping[str, str]) -> dict[str, Any]:
    reading = decision.reading
    return {
        "task": reading.task,
        "confidence": round(reading.confidence, 3),
        "complexity": reading.complexity,
        "work": round(reading.work, 3),
        "mode": decision.mode,
        "candidates": [_facts(one) for one in decision.candidates],
        "others": dict(others),
    }


def others_of(decision: Decision, catalog: Catalog, gone: Sequence[str]) -> dict[str, str]:
    """Why each of the settings' other models is not asked, and each name of the pool that is no model's."""
    unpriced = dict.fromkeys(catalog.unpriced, "not published: neither priced nor free")
    removed = {model_id: IN_WORDS[obstacle] for model_id, obstacle in decision.eligibility.removed.items()}
    return dict.fromkeys(gone, "in the pool, and no published model") | unpriced | removed


def _line(one: Scored) -> str:
    kept = "" if one.is_near_best else "  below the quality that is asked for"
    return (
        f"  {shown(one.model_id, LISTED_CHARS):<38}  {one.score:>8.3f}{one.quality:>9.3f}{one.rate:>7.3f}"
        f"{one.outcomes:>10}{format_usd(one.cost_nano):>14}{one.latency_s:>9.1f}{kept}"
    )


def _facts(one: Scored) -> dict[str, Any]:
    return {
        "model": one.model_id,
        "score": round(one.score, 4),
        "quality": round(one.quality, 4),
        "rate": round(one.rate, 4),
        "outcomes": one.outcomes,
        "cost_usd": format_usd(one.cost_nano),
        "latency_s": round(one.latency_s, 2),
        "has_quality": one.is_near_best,
    }
