"""What a server says of where it runs is taken out of its words, and nothing else is."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from mcp_gateway.core.dialects.redaction import without_places
from mcp_gateway.core.surfaces.error_shapes import MAX_REFUSAL_BYTES
from tests.captured import captured
from tests.cases import each
from tests.refusals import error_of

PATHS = [
    "/usr/lib/python3/dist-packages/vllm/engine.py", "/root/.cache/huggingface/hub/models--org--tiny/snapshots/1a",
    "/models/tiny", "~/.cache/huggingface", "./vllm/x", "../lib/x", "file:///etc/passwd",
    "C:\\Users\\me\\model.gguf", "d:/models/tiny", "\\\\share\\models\\tiny", "\\\\\\\\share\\\\models\\\\tiny",
    "vllm/entrypoints/openai/serving_chat.py", "serving_chat.py:4944", "serving_chat.py:4944:12", "/engine.so",
    "//opt//x", "/work-dir/a+b/@c/d%20e", "/home/名前/モデル",
]  # fmt: skip
SERVERS = [
    "http://10.0.0.5:8000", "http://10.0.0.5:8000/v1/chat", "https://vllm-0/health", "http://gpu7.example.com:8000/x",
    "http://user:secret@gpu7/x", "tcp://127.0.0.1:29500", "ipc:///tmp/abc", "unix:///run/x.sock",
    "10.0.0.5", "10.0.0.5:8000", "fd00::1", "::1", "fe80::1%eth0", "1:2:3:4:5:6:7:8", "localhost", "localhost:8000",
    "vllm.internal", "node-7.cluster.local:5555", "db.svc", "http://x:99999/", "redis://cache/0",
]  # fmt: skip
HARMLESS = [
    "and/or", "input/output", "org/tiny", "1/2", "</tool_call>", "/no_think", "/v1/chat/completions", "n/a",
    "image/png", "top_p must be in (0, 1], got 2.0.", "https://docs.vllm.ai/en/latest/x.html",
    "https://errors.pydantic.dev/2.14/v/missing", "messages[0].content", "12:30:45", "a: b", "max_tokens:8000",
    "e.g. this", "std::vector<int>", "tokenizer.json",
    "3.14", "temperature=0.5", "'type': 'missing'", "it's", "(parameter=top_p)", "data:image/png",
    "2026-01-01T00:00:00",
    "日本語/中文", "regex '^/a$'", "`a`/`b`", "... and so on", "x.y.z", "",
]  # fmt: skip
AROUND = [
    "{}",
    "cannot open {}",
    "cannot open '{}'",
    'File "{}", line 3',
    "({})",
    "path={}.",
    "[{}]: bad",
    "`{}`",
    "in {}: no",
]


@each("around", AROUND)
@each(("place", "word"), [*((path, "a file") for path in PATHS), *((server, "a server") for server in SERVERS)])
def test_a_place_is_told_by_a_neutral_word(place: str, word: str, around: str) -> None:
    assert without_places(around.format(place)) == around.format(word)


@pytest.mark.parametrize("url", ["http://[fd00::1]:80/x", "http://[", "tcp://[::1]:5"])
def test_an_address_in_brackets_is_not_told_either(url: str) -> None:
    said = without_places(f"cannot reach {url}")
    assert "a server" in said
    assert "fd00" not in said
    assert "::1" not in said


@each("text", HARMLESS)
def test_what_only_looks_a_little_like_a_place_stands(text: str) -> None:
    assert without_places(text) == text


def test_a_path_behind_a_name_is_told_too() -> None:
    assert without_places("path:/usr/lib/x, file:~/y/z, file:/etc/x") == "path:a file, file:a file, file:a file"


def test_of_a_traceback_what_was_wrong_is_left() -> None:
    frames = '\n  File "/usr/lib/a.py", line 3, in f\n    open("/x/y")\n'
    text = "Traceback (most recent call last):" + frames
    assert without_places(text + "ValueError: bad thing") == "ValueError: bad thing"
    assert without_places("It failed. " + text + "OSError: [Errno 2] no file: '/x/y'\n") == (
        "It failed. OSError: [Errno 2] no file: 'a file'"
    )
    assert without_places("It failed. " + text) == "It failed. "


def test_what_a_library_puts_before_its_words_is_left_out() -> None:
    for place in ("<path>", "/project/cpp/json_schema_converter.cc", "converter.cc"):
        assert without_places(f'Bad: [02:20:41] {place}:4944: Unsupported type "x"') == 'Bad: Unsupported type "x"'


def test_the_captured_refusal_with_a_path_tells_none() -> None:
    capture = captured("163_json_schema_bad")
    error = error_of(capture.status, capture.body, "tiny", "pub/name")
    assert error.message.startswith('Failed to transform json schema into a grammar: Unsupported type "')
    assert "4944" not in error.message


SHAPES: list[Callable[[str], Any]] = [
    lambda said: {"error": {"message": said, "type": "BadRequestError"}},
    lambda said: {"error": {"message": said, "type": "Bad Request", "param": "body.x"}},
    lambda said: {"error": said},
    lambda said: {"detail": said},
]


@each("shape", SHAPES)
@each("place", [*PATHS, *SERVERS])
def test_no_refusal_tells_where_its_server_runs(place: str, shape: Callable[[str], Any]) -> None:
    body = orjson.dumps(shape(f"Cannot read {place} now."))
    assert place not in error_of(400, body, "org/tiny", "pub/name").message


def test_a_refusal_of_nothing_but_a_place_says_something() -> None:
    body = orjson.dumps({"error": "Traceback (most recent call last):\n  File '/x/y.py'"})
    assert error_of(400, body, "tiny", "pub").message == "The backend refused the request."


@each(
    "message",
    [b"\\q" * 40_000, "é".encode() * 40_000, b"a" + "é".encode() * 40_000, b"\\ud800" * 12_000, b"\x01" * 70_000,
     b"\xff" * 70_000, b"\\u00" * 20_000],
)  # fmt: skip
def test_a_body_that_was_cut_is_a_refusal_whatever_its_text(message: bytes) -> None:
    body = (b'{"error":{"message":"' + message)[:MAX_REFUSAL_BYTES]
    error = error_of(400, body, "tiny", "pub/name")
    assert error.status == 400
    assert error.message
    orjson.dumps(error.as_object())
