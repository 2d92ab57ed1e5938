"""What a request pays for the gateway with everything on: keys, limits, hold and settlement, usage spliced, metrics.

    python benchmarks/doors.py [FOLDER]      (FOLDER on the disk that the ledger is to be measured on)

Starts a mock upstream, measures it directly, then through the gateway, and prints the ratios. The gateway runs alone on
CPU 0, mock and load on CPU 1, where the system lets processes be pinned. Absolute figures belong to one machine.
"""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import orjson
import uvloop
from governance import check, done_by, table  # type: ignore[import-not-found]  # it lies beside this script

HERE = Path(__file__).parent
SECONDS = 4.0
PACED_STREAMS = 500
GATEWAY_CPU, LOAD_CPU = 0, 1
_LENGTH = re.compile(rb"content-length: (\d+)")
END_OF_CHUNKS = b"0\r\n\r\n"


@dataclass
class Result:
    latencies_s: list[float] = field(default_factory=list)
    failed: int = 0
    elapsed_s: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.latencies_s) / self.elapsed_s

    def quantile_ms(self, share: float) -> float:
        return quantile_ms(self.latencies_s, share)


def quantile_ms(seconds: list[float], share: float) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * share))] * 1000


def is_whole(answer: bytearray) -> bool:
    """Has all of it come, by its length or its chunks?"""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    found = _LENGTH.search(answer, 0, end)
    return len(answer) >= end + 4 + int(found[1]) if found else answer.endswith(END_OF_CHUNKS)


class Client(asyncio.Protocol):
    """A connection that sends the same request again as soon as the last answer is whole."""

    def __init__(self, request: bytes, result: Result, until_s: float, done: asyncio.Future[None]) -> None:
        self._request, self._result, self._until_s, self._done = request, result, until_s, done
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not is_whole(self._data):
            return
        now_s = time.perf_counter()
        if self._data.startswith(b"HTTP/1.1 200"):
            self._result.latencies_s.append(now_s - self._sent_at_s)
        else:
            self._result.failed += 1
        if now_s < self._until_s:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _send(self) -> None:
        self._data.clear()
        self._sent_at_s = time.perf_counter()
        self._transport.write(self._request)


async def load(port: int, request: bytes, connections: int, seconds: float = SECONDS) -> Result:
    loop = asyncio.get_running_loop()
    result = Result()
    start_s = time.perf_counter()
    ends = [loop.create_future() for _ in range(connections)]
    for end in ends:
        client = partial(Client, request, result, start_s + seconds, end)
        await loop.create_connection(client, "127.0.0.1", port)
    await asyncio.gather(*ends)
    result.elapsed_s = time.perf_counter() - start_s
    return result


async def first_tokens_and_gaps(
    port: int, request: bytes, streams: int, spread_s: float
) -> tuple[list[float], list[float], int]:
    """Seconds to the first frame and between frames of so many paced streams, begun within `spread_s`; broken ones."""
    firsts: list[float] = []
    gaps: list[float] = []

    async def one(number: int) -> bool:
        await asyncio.sleep(spread_s * number / streams)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        start_s = last_s = time.perf_counter()
        writer.write(request)
        whole = b""
        frames = 0
        while data := await reader.read(2**16):
            whole = whole[-64:] + data
            now_s = time.perf_counter()
            if b"data: " in data:
                (gaps if frames else firsts).append(now_s - (last_s if frames else start_s))
                frames, last_s = frames + 1, now_s
            if whole.endswith(END_OF_CHUNKS):
                break
        writer.close()
        return b"[DONE]" in whole

    ended = await asyncio.gather(*(one(number) for number in range(streams)))
    return firsts, gaps, ended.count(False)


QUESTION = "Say hello in one short sentence."


def chat(path: str, key: str, **fields: object) -> bytes:
    """A chat, or with its path a message, which is asked in the same words."""
    body = {"model": "burst", "messages": [{"role": "user", "content": QUESTION}]}
    return post(path, key, body | {"max_tokens": 64} | fields)


def response(key: str, **fields: object) -> bytes:
    return post("/v1/responses", key, {"model": "burst", "input": QUESTION, "max_output_tokens": 64} | fields)


def post(path: str, key: str, body: dict[str, object], extra: str = "") -> bytes:
    content = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n{extra}"
    head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


def tool_call(key: str, max_tokens: int = 64) -> bytes:
    """A call whose answer comes in one piece, or, of more than 64 tokens, is collected from a stream."""
    arguments = {"model": "burst", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": max_tokens}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    extra = "accept: application/json, text/event-stream\r\nmcp-protocol-version: 2025-06-18\r\n"
    return post("/v1/mcp", key, body | {"params": {"name": "chat_completion", "arguments": arguments}}, extra)


@contextlib.contextmanager
def running(cpu: int, *command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and the first line of its output that holds a port."""

    def pin() -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.sched_setaffinity(0, {cpu})

    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=pin)
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if re.search(r"\d{4,}\s*$", line))
        yield process, re.findall(r"\d+", line)[-1]
    finally:
        process.terminate()
        process.wait(20)


def gateway_files(folder: Path, upstream_port: str) -> tuple[Path, str]:
    """A configuration with prices, and a key whose limits are counted but far away."""
    config = folder / "gateway.toml"
    models = "".join(
        f'[[models]]\nid = "{name}"\n[models.pricing]\nprompt = "0.00000005"\ncompletion = "0.00000015"\n'
        for name in ("burst", "paced", "brief")
    )
    config.write_text(
        f'vllm_urls = ["http://127.0.0.1:{upstream_port}"]\ndata_dir = "{folder}"\nport = 0\nlog_level = "warning"\n'
        f"drain_announce_s = 0\n[mcp]\ncollect_above_tokens = 64\n{models}"
    )
    command = [sys.executable, "-m", "mcp_gateway"]

    def said(*words: str) -> str:
        return subprocess.check_output([*command, *words, "--quiet", "--config", str(config)], text=True).strip()

    account = said("accounts", "create", "bench", "--credit", "1000000")
    far = [
        f"--{name}={10**9}" for name in ("requests-per-minute", "requests-per-day", "tokens-per-minute", "in-flight")
    ]
    return config, said("keys", "create", "--account", account, *far)


def cpu_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def memory_mib(pid: int) -> float:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


async def measure(direct_port: int, port: int, key: str, pid: int) -> int:
    """Print what each case takes; how many requests the gateway has answered then."""
    answered = 0
    cases = [
        ("unary, 32 connections", chat("/v1/chat/completions", key), 32),
        ("stream of 64 tokens, 32 connections", chat("/v1/chat/completions", key, stream=True), 32),
        ("the same by /v1/messages", chat("/v1/messages", key, stream=True), 32),
        ("the same by /v1/responses", response(key, stream=True), 32),
        ("unary, 1 connection", chat("/v1/chat/completions", key), 1),
        ("MCP tools/call, 16 connections", tool_call(key), 16),
    ]
    print(
        f"{'case':<38}{'req/s':>8}{'p50 ms':>9}{'p99 ms':>9}{'failed':>8}{'CPU us':>8}   direct req/s (ratio), p50 ms"
    )
    for name, request, connections in cases:
        used_s = cpu_s(pid)
        ours = await load(port, request, connections)
        answered += len(ours.latencies_s)
        cpu_us = (cpu_s(pid) - used_s) / max(1, len(ours.latencies_s)) * 1e6
        row = f"{name:<38}{ours.rate:>8.0f}{ours.quantile_ms(0.5):>9.2f}{ours.quantile_ms(0.99):>9.2f}"
        row += f"{ours.failed:>8}{cpu_us:>8.0f}"
        if b"/v1/mcp" not in request:
            direct = await load(direct_port, request, connections, SECONDS / 2)
            row += f"   {direct.rate:.0f} ({ours.rate / direct.rate:.2f}), {direct.quantile_ms(0.5):.2f}"
        print(row)
    paced = chat("/v1/chat/completions", key, model="paced", stream=True)
    for how, spread_s in (("begun at one moment", 0.0), ("begun within a second", 1.0)):
        for name, at in (("direct", direct_port), ("gateway", port)):
            firsts, gaps, broken = await first_tokens_and_gaps(at, paced, PACED_STREAMS, spread_s)
            answered += (PACED_STREAMS - broken) * (at == port)
            first = f"first token p50 {quantile_ms(firsts, 0.5):.0f} ms, p99 {quantile_ms(firsts, 0.99):.0f} ms"
            print(f"{PACED_STREAMS} paced streams {how}, {name}: {broken} broken, {first}, ", end="")
            print(f"longest gap {max(gaps) * 1000:.0f} ms")
    print(f"resident memory of the gateway after all that: {memory_mib(pid):.0f} MiB")
    return answered


def main() -> None:
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setaffinity(0, {LOAD_CPU})
    with (
        tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else ".") as name,
        running(LOAD_CPU, sys.executable, str(HERE / "mock_vllm.py"), "0") as (_, upstream_port),
    ):
        config, key = gateway_files(Path(name), upstream_port)
        serve = (sys.executable, "-m", "mcp_gateway", "serve", "--config", str(config))
        with running(GATEWAY_CPU, *serve) as (gateway, port):
            answered = uvloop.run(measure(int(upstream_port), int(port), key, gateway.pid))
            done = done_by(port, key)
            print(f"\nwith what is done for each request, by this gateway and by its peers:\n{table(done, answered)}")
            check(done, answered)


if __name__ == "__main__":
    main()
