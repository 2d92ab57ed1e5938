"""Our stdio bridge beside mcp-remote and fastmcp-remote, in front of the real gateway on loopback.

For each bridge and transport: how long from its start to the first answer, how long a call takes, and what a client
sees when the server is killed and started again on its port. Prints a table; run by `make bench-bridges`.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
INSTALLED = ROOT / "build" / "clients"
STARTS = 10
CALLS = 50
ANSWER_TIMEOUT_S = 15.0
TRIES_AFTER_RESTART = 3
CONFIG = """
data_dir = "{data_dir}"
drain_announce_s = 0
[guests]
requests_per_minute = 1000000
[limits]
listing_requests_per_minute = 1000000
"""
INITIALIZE = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}


def command_of(bridge: str, transport: str, url: str) -> Sequence[str | Path]:
    """How a client would start the bridge, without a key."""
    if bridge == "mcp-remote":
        node, program = INSTALLED / "tools/bin/node", INSTALLED / "node_modules/mcp-remote/dist/proxy.js"
        return [node, program, url, "--transport", f"{transport}-only"]
    if bridge == "fastmcp-remote":
        return [INSTALLED / "python-sdk-2/bin/fastmcp-remote", url, "--transport", transport, "--auth", "none"]
    return [sys.executable, ROOT / "bridge/mcp_stdio_bridge.py", url, "--transport", transport]


@dataclass
class Bridge:
    """A running bridge, spoken to as an MCP client does, one call at a time."""

    process: asyncio.subprocess.Process
    ids: Any

    def send(self, method: str, params: dict[str, Any] | None = None, **request: int) -> None:
        assert self.process.stdin is not None
        message = {"jsonrpc": "2.0", "method": method, "params": params or {}, **request}
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    async def ask(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer to a request; raises TimeoutError, and EOFError once the bridge has ended."""
        assert self.process.stdout is not None
        request_id = next(self.ids)
        self.send(method, params, id=request_id)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while line := await self.process.stdout.readline():
                answer: dict[str, Any] = json.loads(line)
                if answer.get("id") == request_id and "method" not in answer:
                    return answer
        raise EOFError

    async def call(self) -> tuple[bool, str, float]:
        """Calls a tool: whether it worked, what came instead, and how long it took in seconds."""
        began = time.monotonic()
        try:
            answer = await self.ask("tools/call", {"name": "list_models", "arguments": {}})
        except TimeoutError:
            return False, "no answer", time.monotonic() - began
        except (EOFError, ConnectionError):
            return False, "the bridge had ended", time.monotonic() - began
        works = not answer.get("result", {"isError": True}).get("isError")
        return works, "" if works else "error", time.monotonic() - began


@contextlib.asynccontextmanager
async def running_bridge(bridge: str, transport: str, url: str, home: Path) -> AsyncIterator[tuple[Bridge, float]]:
    """A bridge with an open session, and the seconds from its start to its first answer."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *command_of(bridge, transport, url),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env=plain_environment() | {"MCP_REMOTE_CONFIG_DIR": str(home)}, limit=1 << 20,
    )  # fmt: skip
    try:
        opened = Bridge(process, count(1))
        await opened.ask("initialize", INITIALIZE)
        took_s = time.monotonic() - began
        opened.send("notifications/initialized")
        yield opened, took_s
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}


@dataclass
class Server:
    """The real gateway as a process that is killed and started again on one port."""

    config: Path
    port: int = 0
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            Path(sys.executable).parent / "mcp-gateway", "serve", "--config", self.config, "--port", str(self.port),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=plain_environment(),
        )  # fmt: skip
        assert self.process.stdout is not None
        while b" on http://" not in (line := await self.process.stdout.readline()):
            if not line:
                raise SystemExit("the gateway did not start")
        self.port = int(line.rsplit(b":", 1)[1])

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    def url(self, transport: str) -> str:
        return f"http://127.0.0.1:{self.port}/v1/mcp{'/sse' if transport == 'sse' else ''}"


async def start_and_call(bridge: str, transport: str, server: Server, home: Path) -> tuple[float, float]:
    """Seconds from start to first answer, and of a call: medians."""
    starts = []
    for _ in range(STARTS):
        async with running_bridge(bridge, transport, server.url(transport), home) as (_opened, took_s):
            starts.append(took_s)
    async with running_bridge(bridge, transport, server.url(transport), home) as (opened, _took_s):
        calls = [await opened.call() for _ in range(CALLS)]
    if not all(works for works, _, _ in calls):
        raise SystemExit(f"{bridge} over {transport}: a call failed")
    return median(starts), median(took_s for _, _, took_s in calls)


async def restart(bridge: str, transport: str, server: Server, home: Path) -> tuple[str, str]:
    """What a client sees of one call while the server is down, and of the next ones after it has come back."""
    async with running_bridge(bridge, transport, server.url(transport), home) as (opened, _):
        works, _, _ = await opened.call()
        if not works:
            raise SystemExit(f"{bridge} over {transport}: a call failed")
        await server.kill()
        _, down, took_s = await opened.call()
        await server.start()
        tries = [await opened.call() for _ in range(TRIES_AFTER_RESTART)]
    first = next((number for number, (works, _, _) in enumerate(tries, 1) if works), None)
    after = f"never ({tries[-1][1]})" if first is None else f"works at call {first}"
    return f"{down} after {took_s:.2f} s", after


async def main() -> None:
    if not (INSTALLED / ".installed").exists():
        raise SystemExit("run `make bench-bridges`: it installs the other bridges")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "gateway.toml"
        config.write_text(CONFIG.format(data_dir=f"{folder}/data"))
        server = Server(config)
        await server.start()
        try:
            print(f"{os.cpu_count()} CPUs, Python {sys.version.split()[0]}; {STARTS} starts, {CALLS} calls, medians\n")
            print("| bridge | transport | first answer | a call | server down | after its restart |")
            print("| --- | --- | --- | --- | --- | --- |")
            for bridge in ("ours", "mcp-remote", "fastmcp-remote"):
                for transport in ("http", "sse"):
                    start_s, call_s = await start_and_call(bridge, transport, server, Path(folder))
                    down, after = await restart(bridge, transport, server, Path(folder))
                    facts = (f"{start_s:.2f} s", f"{call_s * 1000:.1f} ms", down, after)
                    print(f"| {' | '.join((bridge, transport, *facts))} |", flush=True)
        finally:
            await server.kill()


if __name__ == "__main__":
    asyncio.run(main())
