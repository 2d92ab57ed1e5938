import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mcp_gateway.core.caller import GUEST, GUEST_ACCOUNT_ID, Allowance, Caller, KeyHolder, Quota
from mcp_gateway.core.config import ConfigError, McpServerSettings, McpSettings
from mcp_gateway.core.mcp_client import reach, watched
from mcp_gateway.core.mcp_client.reach import reach_of
from mcp_gateway.core.mcp_client.servers import ToolServers
from mcp_gateway.core.mcp_client.watched import WatchedServer
from tests.cases import each
from tests.loop_clock import pass_time
from tests.patience import eventually
from tests.tool_server import ERAS, ToolServerDouble

NEVER_S = 1e6
Watch = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "_FIRST_REST_S", 0.001)
    monkeypatch.setattr(watched, "_LONGEST_REST_S", 0.01)


def settings_for(double: ToolServerDouble, **more: Any) -> McpServerSettings:
    transport = "sse" if double.url.endswith("/sse") else "streamable-http"
    return McpServerSettings.model_validate(
        {"label": "double", "url": double.url, "transport": transport, "accounts": ["*"]} | more
    )


@asynccontextmanager
async def watching(server: McpServerSettings, **bounds: Any) -> AsyncIterator[WatchedServer]:
    """Watched, with its tools known, and asked again only where it says so."""
    kept = McpSettings.model_validate({"tool_list_interval_s": NEVER_S} | bounds)
    one = WatchedServer(reach_of(server, {"KEY": "s3cret"}), kept, Random(1))
    task = asyncio.ensure_future(one.watch())
    try:
        await eventually(lambda: one.tools)
        yield one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await one.close()


def caller(account_id: str = "acc_1", *, is_test: bool = False, servers: tuple[str, ...] = ("*",)) -> Caller:
    quota = Quota("key", "key_1", Allowance(None, None, None, None))
    principal = GUEST if account_id == GUEST_ACCOUNT_ID else KeyHolder("key_1")
    return Caller(account_id, principal, (quota,), is_test=is_test, mcp_servers=frozenset(servers))


@each("era", ERAS)
async def test_tools_are_listed_and_called_in_every_era(era: str) -> None:
    double = ToolServerDouble()
    async with double.serving(era), watching(settings_for(double), tool_result_bytes=300) as server:
        assert [tool.name for tool in server.tools] == ["add", "echo", "fail", "wait", "long", "grow"]
        assert server.tools[0].description == "Add two numbers."
        assert server.tools[0].input_schema["required"] == ["a", "b"]
        assert await server.call("acc_1", "add", {"a": 1, "b": 2}) == ("3", True)
        failed = await server.call("acc_1", "fail", {})
        assert (failed.is_ok, "it is broken" in failed.text) == (False, True)
        assert not (await server.call("acc_1", "nothing", {})).is_ok
        assert not (await server.call("acc_1", "add", {"a": "one"})).is_ok
        long = await server.call("acc_1", "long", {"size": 1000})
        assert long == ("x" * 300 + "\n[Cut: the result has 1000 bytes, of which these are the first 300.]", True)
        assert double.calls[0] == ("add", {"a": 1, "b": 2})


@each("era", ERAS)
async def test_a_server_that_says_that_its_tools_have_changed_is_asked_anew(era: str) -> None:
    double = ToolServerDouble()
    async with double.serving(era), watching(settings_for(double, shared=True)) as server:
        await server.call("acc_1", "grow", {})
        await eventually(lambda: server.tools[-1].name == "more")


async def test_a_server_that_says_nothing_is_asked_again_in_time() -> None:
    double = ToolServerDouble()
    async with double.serving("legacy"), watching(settings_for(double), tool_list_interval_s=0.01) as server:
        double.server.remove_tool("long")
        await eventually(lambda: "long" not in [tool.name for tool in server.tools])


@each("era", ERAS)
async def test_a_server_that_was_lost_has_no_tools_until_it_is_there_again(era: str) -> None:
    double = ToolServerDouble()
    async with double.serving(era):
        settings = settings_for(double, shared=True)
        watched_server = watching(settings, tool_list_interval_s=0.01)
        server = await watched_server.__aenter__()
    await eventually(lambda: not server.tools)
    assert not (await server.call("acc_1", "add", {"a": 1, "b": 2})).is_ok
    async with double.serving(era):
        await eventually(lambda: server.tools)
        assert await server.call("acc_1", "add", {"a": 1, "b": 2}) == ("3", True)
        await watched_server.__aexit__(None, None, None)


async def test_a_session_of_an_account_that_a_new_server_does_not_know_is_begun_anew() -> None:
    double = ToolServerDouble()
    async with double.serving("legacy"):
        watched_server = watching(settings_for(double))
        server = await watched_server.__aenter__()
        assert (await server.call("acc_1", "add", {"a": 1, "b": 2})).is_ok
    fresh = ToolServerDouble(port=double.port)
    async with fresh.serving("legacy"):
        assert await server.call("acc_1", "add", {"a": 1, "b": 2}) == ("3", True)
        await watched_server.__aexit__(None, None, None)


async def test_a_session_belongs_to_one_account_unless_the_server_is_shared() -> None:
    double = ToolServerDouble()
    async with double.serving("legacy"), watching(settings_for(double)) as server:
        for account_id in ("acc_1", "acc_2", "acc_1"):
            await server.call(account_id, "echo", {"text": account_id})
        first, second, third = double.sessions
        assert first == third != second
    async with double.serving("legacy"), watching(settings_for(double, shared=True)) as server:
        for account_id in ("acc_1", "acc_2"):
            await server.call(account_id, "echo", {"text": account_id})
        assert len(set(double.sessions[-2:])) == 1


async def test_a_new_session_ends_the_longest_unused_and_none_that_is_in_use() -> None:
    double = ToolServerDouble()
    async with double.serving("legacy"), watching(settings_for(double), tool_sessions_per_server=2) as server:
        for account_id in ("acc_1", "acc_2", "acc_3", "acc_2"):
            assert (await server.call(account_id, "echo", {"text": "x"})).is_ok
        assert double.sessions[1] == double.sessions[3]
        waiting = [asyncio.ensure_future(server.call(account_id, "wait", {})) for account_id in ("acc_2", "acc_3")]
        await eventually(lambda: [name for name, _ in double.calls].count("wait") == 2)
        refused = await server.call("acc_4", "echo", {"text": "x"})
        assert (refused.is_ok, "as many users as it may have" in refused.text) == (False, True)
        double.go_on.set()
        assert [await one for one in waiting] == [("done", True)] * 2


@each("era", ERAS)
async def test_a_call_that_takes_too_long_is_cancelled_at_the_server(era: str) -> None:
    double = ToolServerDouble()
    async with double.serving(era), watching(settings_for(double, shared=True), tool_timeout_s=20) as server:
        call = asyncio.ensure_future(server.call("acc_1", "wait", {}))
        await eventually(lambda: double.calls)
        pass_time(20)
        assert await call == ("The tool did not answer within 20 s.", False)
        await double.is_cancelled.wait()
        assert (await server.call("acc_1", "echo", {"text": "still here"})).is_ok


@pytest.mark.gateways  # it waits two seconds for each era, in the SDK's client
@each("era", ERAS)
async def test_a_server_that_answers_no_more_is_lost_until_it_does(era: str) -> None:
    """Whoever asks for its tools does not wait for ever."""
    double = ToolServerDouble()
    bounds = {"tool_list_interval_s": 1, "tool_connect_timeout_s": 20}
    async with double.serving(era), watching(settings_for(double), **bounds) as server:
        double.answers.clear()
        asked = len(double.headers)
        pass_time(1)
        await eventually(lambda: len(double.headers) > asked)
        pass_time(20)
        await eventually(lambda: not server.is_reached)
        double.answers.set()
        await eventually(lambda: server.is_reached and server.tools)


@each("era", ERAS)
async def test_a_call_whose_caller_has_left_is_cancelled_at_the_server(era: str) -> None:
    double = ToolServerDouble()
    async with double.serving(era), watching(settings_for(double)) as server:
        call = asyncio.ensure_future(server.call("acc_1", "wait", {}))
        await eventually(lambda: double.calls)
        call.cancel()
        await double.is_cancelled.wait()


async def test_only_tools_that_the_settings_name_are_offered() -> None:
    double = ToolServerDouble()
    async with double.serving(), watching(settings_for(double, tools=["echo", "gone"])) as server:
        assert [tool.name for tool in server.tools] == ["echo"]


@each(
    ("more", "name", "value"),
    [
        ({"api_key_env": "KEY"}, "authorization", "Bearer s3cret"),
        ({"api_key_env": "KEY", "api_key_header": "X-Key"}, "x-key", "s3cret"),
        ({}, "authorization", None),
    ],
)
async def test_the_key_is_sent_as_the_settings_say(more: dict[str, Any], name: str, value: str | None) -> None:
    double = ToolServerDouble()
    async with double.serving(), watching(settings_for(double, **more)):
        assert {headers.get(name) for headers in double.headers} == {value}


async def test_the_key_may_be_in_a_file_and_is_in_no_repr(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    server = McpServerSettings(label="a", url="http://x/mcp?token=1", api_key_file=tmp_path / "key")
    found = reach_of(server, {})
    assert found.headers == {"Authorization": "Bearer s3cret"}
    assert "s3cret" not in repr(found)
    assert found.told == "http://x/mcp"


@each(
    ("more", "told"),
    [
        ({"api_key_env": "NOT_THERE"}, "the environment has no NOT_THERE"),
        ({"api_key_env": "EMPTY"}, "the environment has no EMPTY"),
        ({"api_key_env": "SPACED"}, "visible ASCII"),
        ({"api_key_file": "/not/there"}, "cannot be read"),
        ({"url": None, "command": "x", "env": ["NOT_THERE"]}, "the environment has no NOT_THERE"),
    ],
)
def test_a_key_that_is_not_there_is_told_and_never_its_value(more: dict[str, Any], told: str) -> None:
    server = McpServerSettings.model_validate({"label": "a", "url": "http://x/mcp"} | more)
    with pytest.raises(ConfigError) as raised:
        reach_of(server, {"SPACED": "two words", "EMPTY": ""})
    assert told in str(raised.value)
    assert "two words" not in str(raised.value)


def test_guests_and_test_keys_have_no_server_and_others_what_is_theirs() -> None:
    for accounts, who, expected in [
        (["*"], caller(), True),
        (["*"], caller(GUEST_ACCOUNT_ID), False),
        (["*"], caller(is_test=True), False),
        (["acc_1"], caller(), True),
        (["acc_1"], caller(servers=("a", "b")), True),
        (["acc_1"], caller(servers=("b",)), False),
        (["*"], caller(servers=()), False),
        (["acc_1"], caller("acc_2"), False),
        ([], caller(), False),
    ]:
        settings = McpServerSettings.model_validate({"label": "a", "url": "http://x/mcp", "accounts": accounts})
        assert WatchedServer(reach_of(settings, {}), McpSettings(), Random(1)).is_for(who) is expected


async def test_an_answer_that_is_too_long_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    double = ToolServerDouble()
    async with double.serving("legacy", is_json=True), watching(settings_for(double)) as server:
        monkeypatch.setattr(reach, "MAX_MESSAGE_BYTES", 10_000)
        assert not (await server.call("acc_1", "long", {"size": 20_000})).is_ok


PROGRAM = """
import os, sys
from mcp.server import MCPServer
server = MCPServer("program", log_level="CRITICAL")
@server.tool(structured_output=False)
def seen() -> str:
    "Tell."
    print("not for the log", file=sys.stderr)
    return " ".join(sorted(name for name in os.environ if name in ("KEY", "OTHER")))
@server.tool(structured_output=False)
def end() -> str:
    "End in the middle of a call."
    os._exit(1)
server.run("stdio")
"""


@pytest.mark.program
async def test_a_program_is_started_with_the_variables_that_it_is_given_and_ends_with_the_gateway(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER", "not to be seen")
    (tmp_path / "program.py").write_text(PROGRAM)
    server = McpServerSettings(
        label="a",
        command=sys.executable,
        args=(str(tmp_path / "program.py"),),
        env=("KEY",),
        accounts=("*",),
        shared=True,
    )
    async with watching(server, tool_connect_timeout_s=30) as program:
        assert [tool.name for tool in program.tools] == ["seen", "end"]
        assert await program.call("acc_1", "seen", {}) == ("KEY", True)
    assert "not for the log" not in capfd.readouterr().err


@pytest.mark.program
@pytest.mark.parametrize("is_shared", [True, False])
async def test_a_program_that_ends_amid_a_call_is_told_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_shared: bool
) -> None:
    monkeypatch.setattr(watched, "_FIRST_REST_S", 0.001)
    (tmp_path / "program.py").write_text(PROGRAM)
    server = McpServerSettings(
        label="a", command=sys.executable, args=(str(tmp_path / "program.py"),), accounts=("*",), shared=is_shared
    )
    async with watching(server, tool_connect_timeout_s=30) as program:
        assert await program.call("acc_1", "end", {}) == ("The server of this tool cannot be reached now.", False)
        await eventually(lambda: program.is_reached)
        assert (await program.call("acc_1", "seen", {})).is_ok


@pytest.mark.program
async def test_every_program_has_ended_once_nothing_is_watched_any_more(tmp_path: Path) -> None:
    lingering = "import atexit, time\natexit.register(time.sleep, 0.2)\n"
    (tmp_path / "program.py").write_text(lingering + PROGRAM)
    server = McpServerSettings(
        label="a", command=sys.executable, args=(str(tmp_path / "program.py"),), env=("KEY",), accounts=("*",)
    )
    one = WatchedServer(reach_of(server, {"KEY": "x"}), McpSettings(tool_connect_timeout_s=30), Random(1))
    quicker = McpServerSettings(label="b", url="http://127.0.0.1:9/mcp")
    other = WatchedServer(reach_of(quicker, {}), McpSettings(), Random(1))
    watching_all = asyncio.ensure_future(ToolServers([other, one]).watch())
    await eventually(lambda: one.tools)
    assert (await one.call("acc_1", "seen", {})).is_ok
    sessions = [one._own, *one._sessions.values()]
    watching_all.cancel()
    await asyncio.gather(watching_all, return_exceptions=True)
    assert [session is not None and session._task is not None and session._task.done() for session in sessions] == [
        True,
        True,
    ]


@pytest.mark.program
async def test_a_program_that_is_not_there_is_tried_again_and_nothing_else_fails(tmp_path: Path) -> None:
    server = McpServerSettings(label="a", command=str(tmp_path / "nothing"), accounts=("*",))
    one = WatchedServer(reach_of(server, {}), McpSettings(), Random(1))
    task = asyncio.ensure_future(one.watch())
    assert not (await one.call("acc_1", "x", {})).is_ok
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
