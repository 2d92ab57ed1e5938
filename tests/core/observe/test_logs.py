"""The log's lines: in UTC with the zone, as text or as one JSON object each."""

import logging
import time
from collections.abc import Iterator
from io import StringIO

import orjson
import pytest

from mcp_gateway.core.observe.logs import LogFormat, formatter_of

AT_S = 1_900_000_000.0625


@pytest.fixture
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zone that is not UTC."""
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def written(form: LogFormat, message: str, *values: object, error: BaseException | None = None) -> str:
    """What a handler writes for one line."""
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter_of(form))
    made = logging.LogRecord("mcp_gateway.core.x", logging.WARNING, "x.py", 1, message, values, None)
    made.created, made.msecs = AT_S, AT_S % 1 * 1000
    made.exc_info = None if error is None else (type(error), error, error.__traceback__)
    handler.emit(made)
    return stream.getvalue()


@pytest.mark.usefixtures("_elsewhere")
def test_a_line_of_text_has_its_time_in_utc_with_the_zone() -> None:
    line = written("text", "backend %s is %s", "vllm-1", "down")
    assert line == "2030-03-17T17:46:40.062Z WARNING mcp_gateway.core.x: backend vllm-1 is down\n"


@pytest.mark.usefixtures("_elsewhere")
def test_a_line_of_json_is_one_object_with_the_same_facts() -> None:
    line = written("json", "backend %s\nis \u2028 %s", "vllm-1", 'a "b"')
    assert line.count("\n") == 1
    assert orjson.loads(line) == {
        "time": "2030-03-17T17:46:40.062Z",
        "level": "warning",
        "logger": "mcp_gateway.core.x",
        "message": 'backend vllm-1\nis \u2028 a "b"',
    }


def test_what_is_no_text_makes_no_line_fail() -> None:
    assert orjson.loads(written("json", "%s", "half \ud800"))["message"] == "half \\ud800"


def test_an_error_is_told_in_the_same_object() -> None:
    try:
        raise ValueError("odd")
    except ValueError as caught:
        line = written("json", "failed", error=caught)
    assert line.count("\n") == 1
    assert orjson.loads(line)["exception"].endswith("ValueError: odd")
