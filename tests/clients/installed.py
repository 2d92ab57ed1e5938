"""The real gateway as a program, and the programs of others that `make test-clients` has installed apart from it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tests.authorities import AUTHORITIES, KEPT
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
BRIDGE = ROOT / "bridge" / "mcp_stdio_bridge.py"
INSTALLED = ROOT / "build" / "clients"
GATEWAY = Path(sys.executable).parent / "mcp-gateway"
NODE = INSTALLED / "tools" / "bin" / "node"
PROGRAMS = Path(__file__).parent / "programs"
MODEL = "demo/paced"
DEMOS = ("demo/echo", MODEL)
ODD_IDS = ("qwen3:8b", "sql-lora[1]", "http://x/y", "名前", "catalog", "a/../b")
"""Ids of models that are no URI as they are."""
CONFIG = """
data_dir = "{data_dir}"
port = 0
drain_announce_s = 0
cors_origins = ["{origin}"]
[guests]
requests_per_minute = 10000
"""

Message = dict[str, Any]


@dataclass(frozen=True)
class Gateway:
    """A served gateway, and a key of an account with money; another one of it may mint over MCP."""

    url: str
    key: str
    minting_key: str = ""

    def mcp_url(self, transport: str) -> str:
        return f"{self.url}/v1/mcp{'/sse' if transport == 'sse' else ''}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


def environment(**variables: str) -> dict[str, str]:
    """The environment of a program that was started elsewhere: nothing of the gateway's but what is given."""
    ours = ("GATEWAY_", "VIRTUAL_ENV", *AUTHORITIES, KEPT)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    authorities = {name: value for name in AUTHORITIES if (value := os.environ[KEPT + name])}
    return kept | authorities | variables


def run(*command: str | Path, stdin: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end among the installed ones."""
    assert NODE.exists(), "run `make test-clients`: it installs what is tried here"
    with (stdin or Path(os.devnull)).open() as source:
        return subprocess.run(
            list(map(str, command)), stdin=source, capture_output=True, text=True, cwd=INSTALLED,
            env=environment(**variables), timeout=PATIENCE_S,
        )  # fmt: skip


def output(*command: str | Path, stdin: Path | None = None, **variables: str) -> str:
    """What a program that succeeds prints."""
    ended = run(*command, stdin=stdin, **variables)
    assert ended.returncode == 0, f"{ended.returncode}: {ended.stdout}{ended.stderr}"
    return ended.stdout


def run_node(program: str, told: Message) -> Message:
    """What one of our Node programs prints; it is read from standard input, so that it finds the installed packages."""
    code = PROGRAMS / program
    printed: Message = json.loads(output(NODE, "--input-type=module", "-", json.dumps(told), stdin=code))
    return printed


def run_python(program: str, told: Message) -> Message:
    """What one of our Python programs prints, in the environment that is named like it."""
    interpreter = INSTALLED / Path(program).stem.replace("_", "-") / "bin" / "python"
    printed: Message = json.loads(output(interpreter, PROGRAMS / program, json.dumps(told)))
    return printed


def _published(model_id: str) -> str:
    """A model in the configuration, answered by the demo backend."""
    backend_model = model_id if model_id in DEMOS else "demo/echo"
    return f'[[models]]\nid = "{model_id}"\nbackend_model = "{backend_model}"\n'


@dataclass(frozen=True)
class Pages:
    """A server of PROGRAMS' pages, and what they tell it."""

    port: int
    seen: SimpleQueue[Message]


@contextmanager
def served_pages() -> Iterator[Pages]:
    seen: SimpleQueue[Message] = SimpleQueue()

    class Handler(SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=PROGRAMS)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Pages(server.server_port, seen)
        server.shutdown()


@contextmanager
def served_gateway(folder: Path, pages: Pages) -> Iterator[Gateway]:
    """Lets the pages in by the address of their server, and not by its name."""
    config = folder / "gateway.toml"
    config.write_text(
        CONFIG.format(data_dir=folder / "data", origin=f"http://127.0.0.1:{pages.port}")
        + "".join(map(_published, (*DEMOS, *ODD_IDS)))
    )

    def desk(*arguments: str) -> str:
        return output(GATEWAY, *arguments, "--quiet", "--config", config).strip()

    account = desk("accounts", "create", "test", "--credit", "5")
    unlimited = ("--requests-per-minute", "none", "--requests-per-day", "none", "--tokens-per-minute", "none")
    key = desk("keys", "create", "--account", account, *unlimited)
    minting_key = desk("keys", "create", "--account", account, *unlimited, "--mint-over-mcp")
    command: list[str | Path] = [GATEWAY, "serve", "--config", config]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment()) as process,
    ):
        try:
            assert process.stdout is not None
            greeting = next((line for line in process.stdout if " on http://" in line), None)
            assert greeting, (folder / "log").read_text()
            yield Gateway(greeting.split()[-1], key, minting_key)
        finally:
            process.terminate()
