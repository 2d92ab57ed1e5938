"""Starts the bridge as a client would, as a process with pipes, and gives the tests its lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE_S, poll

BRIDGE = Path(__file__).parents[2] / "bridge" / "mcp_stdio_bridge.py"
LINE_LIMIT_BYTES = 64 * 1024 * 1024
INITIALIZE_PARAMS = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}
MODERN_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}

Message = dict[str, Any]


def environment(**variables: str) -> dict[str, str]:
    """The environment of a desktop client: nothing of the gateway's but what is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return kept | variables


@dataclass
class BridgeProcess:
    """A running bridge; every wait has a deadline."""

    process: asyncio.subprocess.Process

    def send_line(self, line: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(line)

    def send(self, method: str, params: Message | None = None, *, id: int | str | None = None) -> None:
        message: Message = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        self.send_line(json.dumps(message | ({} if id is None else {"id": id})).encode() + b"\n")

    def send_modern(self, method: str, params: Message | None = None, *, id: int | str | None = None) -> None:
        self.send(method, {**(params or {}), "_meta": {**MODERN_META, **(params or {}).get("_meta", {})}}, id=id)

    async def read(self) -> Message:
        assert self.process.stdout
        async with asyncio.timeout(PATIENCE_S):
            line = await self.process.stdout.readline()
        assert line.endswith(b"\n"), "the bridge closed its output"
        message: Message = json.loads(line)
        return message

    async def answer(self, id: int | str | None) -> Message:
        """The next answer to a request; what comes before it is skipped."""
        while "method" in (message := await self.read()) or message.get("id") != id:
            pass
        return message

    async def call(self, method: str, params: Message | None = None, *, id: int | str) -> Message:
        self.send(method, params, id=id)
        return await self.answer(id)

    async def open(self) -> Message:
        answer = await self.call("initialize", INITIALIZE_PARAMS, id="init")
        self.send("notifications/initialized")
        return answer

    async def echo(self, text: str, *, id: int | str) -> Message:
        return await self.call("tools/call", {"name": "echo", "arguments": {"text": text}}, id=id)

    async def told_to_end(self, by: signal.Signals) -> int:
        """Sends a signal; the exit code."""
        self.process.send_signal(by)
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()

    async def end(self) -> tuple[int, bytes, bytes]:
        """Closes standard input; the exit code and what is left on standard output and error."""
        async with asyncio.timeout(PATIENCE_S):
            output, log = await self.process.communicate(b"")
        assert self.process.returncode is not None
        return self.process.returncode, output, log


@contextlib.asynccontextmanager
async def bridge_process(
    *arguments: str, stdout: int = asyncio.subprocess.PIPE, **variables: str
) -> AsyncIterator[BridgeProcess]:
    """Runs the script file itself; keyword arguments are environment variables."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(BRIDGE),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
        env=environment(**variables),
        limit=LINE_LIMIT_BYTES,
    )
    bridge = BridgeProcess(process)
    try:
        yield bridge
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@dataclass
class McpTestServer:
    """Starts, is killed and starts again on one port; knows from the diary what it saw since the last start."""

    template: subprocess.Popen[bytes]
    diary_path: Path
    port: int = 0
    pid: int = 0
    forgotten: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/mcp"

    def start(self) -> None:
        """Listens on the port of the last start, or on any; the sessions of the last start are unknown to it."""
        self.diary_path.touch()
        self.forget()
        settings = {"port": self.port, "diary_path": str(self.diary_path)}
        assert self.template.stdin
        self.template.stdin.write(json.dumps(settings).encode() + b"\n")
        self.template.stdin.flush()
        poll(lambda: bool(self.notes("listening")))
        listening = self.notes("listening")[-1]
        self.port, self.pid = listening["port"], listening["pid"]

    def kill(self) -> None:
        """Ends the process and every connection to it, without a word."""
        poll(self._is_killed)

    def _is_killed(self) -> bool:
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return True
        return False

    def forget(self) -> None:
        self.forgotten += len(self.notes())

    def notes(self, what: str | None = None) -> list[Message]:
        lines = self.diary_path.read_text().splitlines()[self.forgotten :]
        return [note for note in map(json.loads, lines) if what in (None, note["what"])]

    @property
    def requests(self) -> list[Message]:
        return self.notes("request")

    @property
    def tools_called(self) -> list[str]:
        return [note["tool"] for note in self.notes("call")]

    async def noted(self, what: str) -> Message:
        """Waits until something has happened."""
        await asyncio.to_thread(poll, lambda: bool(self.notes(what)))
        return self.notes(what)[-1]


def server_template() -> subprocess.Popen[bytes]:
    """The process that servers are forked from; it ends them when its input is closed."""
    script = Path(__file__).with_name("mcp_server.py")
    return subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, start_new_session=True)


def text_of(answer: Message) -> str:
    """The text of a tool's result."""
    assert "result" in answer, answer
    text = answer["result"]["content"][0]["text"]
    assert isinstance(text, str)
    return text
