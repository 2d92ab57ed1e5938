"""What a replica under a little traffic of many kinds tells at /metrics, twice, and what promtool takes for that.

It has a PostgreSQL and a Valkey, so that whatever any gateway tells is there.
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from prometheus_client.parser import text_string_to_metric_families

from http_api.worker_metrics import merged
from tests.captured import captured
from tests.patience import eventually
from tests.postgres_stores import lent_database
from tests.replaying import Answer, ReplayingBackend, death, events, stream, unary, usage, whole
from tests.serving import FREE, PRICED, Door, chat_body, open_door
from tests.tool_server import ToolServerDouble
from tests.valkey_server import ValkeyServer

_TARGET = {"job": "mcp-gateway", "instance": "gateway:8080"}
"""Labels that Prometheus adds to all that it reads there."""
_TOOLS = {"tools": [{"type": "mcp", "server_label": "double"}]}
_TOKEN = "that-prometheus-sends"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Scrapes(NamedTuple):
    """Before and after the traffic."""

    before: str
    after: str

    @property
    def families(self) -> set[str]:
        """The names that metrics have on the page, with samples or without."""
        return {line.split()[2] for line in self.after.splitlines() if line.startswith("# TYPE ")}

    def of_workers(self) -> "Scrapes":
        """As two processes at one address tell it, to which the same happened."""
        before, after = (merged(dict.fromkeys((1, 2), page.encode())).decode() for page in self)
        return Scrapes(before, after)

    def samples(self) -> Samples:
        return _samples_in(self.after)

    def series(self) -> list[dict[str, str]]:
        """Both, a minute apart, as promtool's tests are given them."""
        before, after = _samples_in(self.before), _samples_in(self.after)
        return [
            {"series": _written(name, labels), "values": f"{_value(before.get((name, labels)))} {_value(value)}"}
            for (name, labels), value in after.items()
        ]


async def scrapes_of_traffic(folder: Path) -> Scrapes:
    double = ToolServerDouble()
    (folder / "valkey").mkdir()
    valkey = ValkeyServer(folder / "valkey")
    try:
        with lent_database() as database_url:
            return await _scrapes(folder, double, database_url=database_url, valkey_url=valkey.url())
    finally:
        valkey.end()


async def _scrapes(folder: Path, double: ToolServerDouble, **shared: Any) -> Scrapes:
    async with (
        ReplayingBackend() as backend,
        ReplayingBackend("absent") as other,
        double.serving(),
        open_door(
            folder,
            vllm_urls=[backend.url, other.url],
            models=[FREE, PRICED],
            metrics_token=_TOKEN,
            mcp_servers=[{"label": "double", "url": double.url, "accounts": ["*"], "shared": True}],
            **shared,
        ) as door,
    ):
        await eventually(lambda: all(server.tools for server in door.gateway.tool_servers))
        key = await door.key(credit="1", mcp_servers=["*"])
        await _ask(door, backend, key)
        before = (await door.get("/metrics", _TOKEN)).text
        await _ask(door, backend, key)
        return Scrapes(before, (await door.get("/metrics", _TOKEN)).text)


async def _ask(door: Door, backend: ReplayingBackend, key: str) -> None:
    """Chats in one piece and streamed, one that a backend breaks off, one for auto, one with a tool, and a refusal."""
    priced = PRICED["id"]
    for status, answers, asked in (
        (200, [unary()], chat_body(model=priced)),
        (200, [events(*stream())], chat_body(model=priced, stream=True)),
        (502, [death] * 4, chat_body(model=priced)),  # as often as it is asked again
        (200, [unary()], chat_body(model="auto")),
        (200, [_calling_a_tool(), unary()], chat_body(model=priced, **_TOOLS)),
    ):
        backend.answer_with(*answers)
        answer = await door.post(orjson.dumps(asked), key)
        assert answer.status_code == status, answer.text
    assert (await door.chat(key, model="nobody/has-it")).status_code == 404
    await asyncio.gather(*(door.mcp("tools/list", key) for _ in range(2)))


def _calling_a_tool() -> Answer:
    body = orjson.loads(captured("100_chat").body)
    function = {"name": "add", "arguments": '{"a": 1, "b": 2}'}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call-1", "type": "function", "function": function}],
    }
    body["choices"][0] |= {"finish_reason": "tool_calls", "message": message}
    body["usage"] = usage(10, 4)
    return whole(orjson.dumps(body))


def _samples_in(page: str) -> Samples:
    return {
        (sample.name, tuple(sorted((sample.labels | _TARGET).items()))): float(sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def _written(name: str, labels: Iterable[tuple[str, str]]) -> str:
    return name + "{" + ", ".join(f"{label}={orjson.dumps(value).decode()}" for label, value in labels) + "}"


def _value(value: float | None) -> str:
    return "_" if value is None else f"{value:.17g}"


def questions(series: list[dict[str, str]], expressions: Iterable[str]) -> Any:
    """A test for promtool: whether each expression gives anything, a minute after the first scrape."""
    asked = [
        {"expr": f"count({expression}) > bool 0", "eval_time": "1m", "exp_samples": [{"labels": "{}", "value": 1}]}
        for expression in expressions
    ]
    return {"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": asked}]}
