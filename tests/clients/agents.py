"""Coding agents as programs, run headless with a model behind the gateway; nothing of theirs leaves the machine.

What each is told of the gateway stands in docs/agents.md: the lines of its section are those that are run here.
"""

import asyncio
import base64
import json
import os
import re
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from tests.clients.installed import INSTALLED, NODE, ROOT
from tests.clients.stage import PIXEL
from tests.patience import PATIENCE_S

DOCUMENT = (ROOT / "docs" / "agents.md").read_text()
ADDRESS, KEY, MODEL = "http://127.0.0.1:8080", "gw_live_...", "your/model"
NOBODY = "http://127.0.0.1:9"
"""A closed port, where all goes that is not for the gateway."""
_PROXIES = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), NOBODY)
_ALONE = _PROXIES | dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
_EXPORT = re.compile(r"^export (\w+)=(.*)$", re.M)
_FILE = re.compile(r"^`~/([^`]+)`.*?:\n\n```\w+\n(.*?)^```$", re.M | re.S)
PROMPT = "Use the tools now"
RETRIES = 1
"""As often as programs are told to try again, which would else go on for minutes."""


class Ended(NamedTuple):
    """How a program ended, and what it printed."""

    status: int | None
    printed: str


class Agent(NamedTuple):
    """A program: how it is asked, and how it is shown an image; and what keeps it from talking to others."""

    command: Callable[[str], list[str | Path]]
    with_image: Callable[[Path], tuple[list[str | Path], bytes]] | None
    quiet: dict[str, str]


def section(agent: str) -> str:
    """What the document says of an agent."""
    found = re.search(rf"^## {re.escape(agent)}\n(.*?)(?=^## |\Z)", DOCUMENT, re.M | re.S)
    assert found is not None, agent
    return found[1]


def filled_in(text: str, url: str, key: str, model: str) -> str:
    return text.replace(ADDRESS, url).replace(KEY, key).replace(MODEL, model)


def settle_in(agent: str, home: Path, url: str, key: str, model: str) -> dict[str, str]:
    """Writes the files that the document names, and returns the variables that it exports."""
    text = filled_in(section(agent), url, key, model)
    for name, content in _FILE.findall(text):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return dict(_EXPORT.findall(text))


async def run_agent(
    agent: str, home: Path, variables: dict[str, str], *, image: bool = False, until: Awaitable[object] | None = None
) -> Ended:
    """Runs it to its end, or, once `until` has come, interrupts it as a person would."""
    program = AGENTS[agent]
    command, stdin = program.command(PROMPT), b""
    if image:
        assert program.with_image is not None
        command, stdin = program.with_image(home)
    path = f"{NODE.parent}:{os.environ['PATH']}"
    running = await asyncio.create_subprocess_exec(
        *command, cwd=home, env={"PATH": path, "HOME": str(home)} | _ALONE | program.quiet | variables,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        ending = asyncio.create_task(running.communicate(stdin))
        if until is not None:
            await until
            running.send_signal(signal.SIGINT)
        printed, _ = await ending
    return Ended(running.returncode, printed.decode())


def _claude(*arguments: str) -> list[str | Path]:
    program = INSTALLED / "node_modules" / "@anthropic-ai" / "claude-code-linux-x64" / "claude"
    return [program, "-p", *arguments, "--allowedTools", "Bash(echo:*)"]


def _claude_with_image(_: Path) -> tuple[list[str | Path], bytes]:
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    content = [{"type": "text", "text": "What is it?"}, {"type": "image", "source": source}]
    asked = json.dumps({"type": "user", "message": {"role": "user", "content": content}})
    formats = ("--input-format", "stream-json", "--output-format", "stream-json", "--verbose")
    return _claude(*formats), asked.encode()


def _codex(*arguments: str | Path) -> list[str | Path]:
    (program,) = INSTALLED.glob("node_modules/@openai/codex-*/vendor/*/bin/codex")
    retries = [f"model_providers.gateway.{name}_max_retries={RETRIES}" for name in ("request", "stream")]
    return [program, "exec", "--skip-git-repo-check", *(word for one in retries for word in ("-c", one)), *arguments]


def _codex_with_image(home: Path) -> tuple[list[str | Path], bytes]:
    image = home / "pixel.png"
    image.write_bytes(base64.b64decode(PIXEL))
    return _codex("What is it?", "--image", image), b""


_OPENCODE = INSTALLED / "node_modules" / "opencode-linux-x64" / "bin" / "opencode"
_OPENCODE_ASKS = ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "SHARE", "DEFAULT_PLUGINS")
_CONTINUE = INSTALLED / "node_modules" / "@continuedev" / "cli" / "dist" / "cn.js"
AGENTS = {
    "Claude Code": Agent(
        _claude,
        _claude_with_image,
        {
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1", "DISABLE_TELEMETRY": "1",
            "DISABLE_ERROR_REPORTING": "1", "CLAUDE_CODE_MAX_RETRIES": str(RETRIES),
        },
    ),
    "Codex": Agent(_codex, _codex_with_image, {}),
    "OpenCode": Agent(
        lambda prompt: [_OPENCODE, "run", prompt],
        None,
        dict.fromkeys((f"OPENCODE_DISABLE_{name}" for name in _OPENCODE_ASKS), "1"),
    ),
    "Continue": Agent(
        lambda prompt: [NODE, _CONTINUE, "-p", prompt, "--allow", "Bash", "--config", ".continue/config.yaml"],
        None,
        {"CONTINUE_TELEMETRY_ENABLED": "0"},
    ),
}  # fmt: skip
