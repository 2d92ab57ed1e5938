"""The bridge in front of the real gateway: the next call works after that was killed and started again; limits hold."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from random import Random

import pytest
from mcp import Client, StdioServerParameters

from mcp_gateway.core.config import Settings
from tests.bridge.process import bridge_process
from tests.patience import PATIENCE_S
from tests.replaying import ReplayingBackend, events, stream
from tests.serving import environ_of, open_door
from tests.stage import PRICED, cost_nano, staged

pytestmark = pytest.mark.program
ARGUMENTS = {"model": "demo/echo", "messages": [{"role": "user", "content": "Hello"}]}


def lasting_port() -> int:
    """One that is free, and below those that systems give to connections: it stays free while the gateway is down."""
    for port in Random().sample(range(20_000, 30_000), 100):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


async def started(tree: Settings, port: int) -> asyncio.subprocess.Process:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environ |= environ_of(tree) | {"GATEWAY_GUESTS__REQUESTS_PER_MINUTE": "1000"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mcp_gateway", "serve", "--port", str(port),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=environ,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        while b" on http://" not in (line := await process.stdout.readline()):
            assert line, "the gateway ended before it served"
    return process


async def test_a_gateway_killed_and_started_again_is_used_again_by_the_next_call(served_at: Settings) -> None:
    """Over either transport; the bridges are two, and the gateway is one, since its start takes a second."""
    port = lasting_port()
    gateway = await started(served_at, port)
    try:
        async with (
            bridged(f"http://127.0.0.1:{port}/v1/mcp") as http,
            bridged(f"http://127.0.0.1:{port}/v1/mcp/sse") as sse,
        ):
            for client in (http, sse):
                assert not (await client.call_tool("chat_completion", ARGUMENTS)).is_error
            gateway.send_signal(signal.SIGKILL)
            await gateway.wait()
            gateway = await started(served_at, port)
            for client in (http, sse):
                answer = await client.call_tool("chat_completion", ARGUMENTS)
                assert answer.structured_content is not None
                assert answer.structured_content["content"].endswith("You said: Hello")
    finally:
        gateway.kill()
        await gateway.wait()


def bridged(url: str) -> Client:
    """A client with a bridge of its own to that address."""
    command = StdioServerParameters(command=sys.executable, args=["-m", "mcp_gateway", "bridge", url])
    return Client(command, mode="legacy")


async def test_keys_of_one_account_have_one_limit_through_the_bridge_and_beside_it(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        account_id = await door.account()
        await (await door.desk()).accounts.change(account_id, limits={"requests_per_minute": 2})
        first, second = await door.key(account_id), await door.key(account_id)
        async with bridge_process(f"{door.url}/v1/mcp", GATEWAY_API_KEY=first) as bridge:
            await bridge.open()
            call = {"name": "chat_completion", "arguments": ARGUMENTS}
            answers = [await bridge.call("tools/call", call, id=1)]
            assert (await door.chat(second, **ARGUMENTS)).status_code == 200
            answers.append(await bridge.call("tools/call", call, id=2))
        assert [answer["result"]["isError"] for answer in answers] == [False, True]
        assert answers[1]["result"]["structuredContent"]["code"] == "requests_per_minute"


async def test_an_answer_that_is_cut_where_the_money_ends_comes_whole_through_the_bridge(tmp_path: Path) -> None:
    wallet = {"min_useful_tokens": 1}
    priced = PRICED | {"context_window": 100_000, "max_output_tokens": 32_000}
    async with (
        ReplayingBackend(max_model_len=100_000) as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=[priced], wallet=wallet) as door,
    ):
        stage = await staged(door, backend, cost_nano(10, 20))
        for path, number in (("", 1), ("/sse", 2)):
            stage = await stage.credited(cost_nano(10, 20))
            backend.answer_with(events(*stream(10, 100)))
            async with bridge_process(f"{door.url}/v1/mcp{path}", GATEWAY_API_KEY=stage.key) as bridge:
                await bridge.open()
                arguments = ARGUMENTS | {"model": PRICED["id"], "max_tokens": 20_000}
                call = {"name": "chat_completion", "arguments": arguments}
                answer = await bridge.call("tools/call", call, id=number)
            told = answer["result"]["structuredContent"]
            assert (told["finish_reason"], told["ended_by"], told["content"]) == ("length", "balance", "x" * 20)
            await stage.is_left_with(0)
