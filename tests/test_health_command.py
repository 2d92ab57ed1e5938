"""`mcp-gateway health`: what it says of a gateway, and by its status, for whoever asks by a command."""

import asyncio
import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import Result

from mcp_gateway.__main__ import main
from tests.cases import each
from tests.replaying import ReplayingBackend
from tests.serving import FREE, open_door
from tests.test_command_line import run

pytestmark = pytest.mark.gateways


async def asked(*words: str) -> Result:
    return await asyncio.to_thread(run, "health", *words)


async def test_a_gateway_is_told_of_with_its_reasons_and_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with (
        ReplayingBackend() as backend,
        open_door(tmp_path / "data", vllm_urls=[backend.url], models=[FREE]) as door,
    ):
        monkeypatch.setenv("GATEWAY_PORT", str(door.port))
        monkeypatch.setenv("GATEWAY_HOST", "0.0.0.0")
        well = await asked()
        assert (well.exit_code, well.stdout) == (0, "ok\n")
        assert json.loads((await asked("--json", "--url", f"{door.url}/")).stdout)["status"] == "ok"
        backend.die()
        await door.gateway.pool.discover()
        ill = await asked()
        assert (ill.exit_code, ill.stdout.splitlines()[0]) == (1, "down")
        assert "- backend vllm-1 is down: The backend of this model cannot be reached." in ill.stdout.splitlines()
        assert (await asked("--live")).exit_code == 0


class Other(BaseHTTPRequestHandler):
    answer = b""

    def do_GET(self) -> None:
        self.wfile.write(self.answer)

    def log_message(self, *words: object) -> None:
        """Nowhere."""


@pytest.fixture(scope="module")
def other() -> Iterator[int]:
    """The port of something else."""
    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


HEAD = b"HTTP/1.0 200 OK\r\n\r\n"


@each(
    "answer",
    [b"", b"not HTTP\r\n\r\n", HEAD, HEAD + b"[1]", HEAD + b"<html>", HEAD + b'{"status": "fine"}', HEAD + b"\xff"],
)
def test_what_is_no_gateway_is_not_taken_for_one(answer: bytes, other: int) -> None:
    Other.answer = answer
    result = run("health", "--url", f"http://127.0.0.1:{other}")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"mcp-gateway: no gateway answers at http://127.0.0.1:{other}: ")


@each("url", ["gateway:8080", "ftp://gateway", "", "http://", "http://a b"])
def test_what_is_no_address_is_refused_in_words(url: str) -> None:
    result = run("health", "--url", url)
    assert (result.exit_code, result.stderr) == (
        2,
        "mcp-gateway: --url takes an address such as http://127.0.0.1:8080\n",
    )


async def test_a_container_s_question_is_answered_without_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the words in the image, which the command line understands, too."""
    async with open_door(tmp_path) as door:
        for url, ended in ((door.url, 0), ("http://127.0.0.1:1", 1)):
            monkeypatch.setattr("sys.argv", ["mcp-gateway", "health", "--live", "--url", url])
            monkeypatch.setitem(sys.modules, "mcp_gateway.cli.commands", None)
            with pytest.raises(SystemExit) as exited:
                await asyncio.to_thread(main)
            assert exited.value.code == ended
            monkeypatch.undo()
            told, by_command = capsys.readouterr(), await asked("--live", "--url", url)
            assert (told.out, told.err, ended) == (by_command.stdout, by_command.stderr, by_command.exit_code)


def test_nobody_there_is_told_by_the_status() -> None:
    result = run("health", "--live", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "Connection refused" in result.stderr
