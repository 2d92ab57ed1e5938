"""The balancer of nginx's in front of replicas: as nginx reads its configuration, and what comes through it."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from tests.deploy.programs import DEPLOY, INSTALLED, accepted, refused
from tests.patience import PATIENCE_S, becomes
from tests.postgres_stores import lent_database
from tests.replaying import ReplayingBackend, in_two, stream, unary
from tests.serving import PRICED, bearer, chat_body, open_door
from tests.valkey_server import ValkeyServer

pytestmark = pytest.mark.slow
CONFIG = DEPLOY / "nginx" / "replicas.conf"
SERVER = re.compile(r"(server) gateway[-0-9]*:8080")


def placed(folder: Path, replicas: list[str], listens_at: str = "127.0.0.1:8090", *, text: str = "") -> Path:
    """The configuration of a whole nginx that keeps to that folder, in front of these addresses."""
    left = iter(replicas)
    told = SERVER.sub(lambda found: f"{found[1]} {next(left)}", text or CONFIG.read_text())
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    file = folder / "nginx.conf"
    file.write_text(
        f"worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/errors info; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{told.replace('listen 8090', f'listen {listens_at}')} }}"
    )
    return file


def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    replicas = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]
    assert len(SERVER.findall(CONFIG.read_text())) == len(replicas)
    prefix = ("-p", tmp_path, "-e", tmp_path / "errors")
    accepted("nginx", "-t", "-q", *prefix, "-c", placed(tmp_path, replicas))
    odd = CONFIG.read_text().replace("proxy_buffering", "proxy_bufering")
    assert "proxy_bufering" in refused("nginx", "-t", "-q", *prefix, "-c", placed(tmp_path, replicas, text=odd))


@asynccontextmanager
async def balanced(folder: Path, replicas: list[str]) -> AsyncIterator[str]:
    """The address of nginx, once it listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = placed(folder, replicas, f"127.0.0.1:{port}")
    program = INSTALLED / "bin" / "nginx"
    process = await asyncio.create_subprocess_exec(program, "-p", folder, "-e", folder / "errors", "-c", config)
    try:

        async def is_there() -> bool:
            assert process.returncode is None, (folder / "errors").read_text()
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return True
            return False

        await becomes(is_there, bool)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def test_replicas_behind_it_are_one_gateway_whose_tokens_come_as_they_are_made(tmp_path: Path) -> None:
    """With one of three away, which nobody notices."""
    valkey = ValkeyServer(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        away = f"127.0.0.1:{free.getsockname()[1]}"
    try:
        with lent_database() as database_url:
            async with ReplayingBackend() as backend:
                settings: dict[str, Any] = {
                    "vllm_urls": [backend.url],
                    "models": [PRICED],
                    "database_url": database_url,
                    "valkey_url": valkey.url(),
                }
                async with (
                    open_door(tmp_path / "one", **settings) as one,
                    open_door(tmp_path / "two", **settings) as two,
                    balanced(tmp_path, [f"127.0.0.1:{one.port}", away, f"127.0.0.1:{two.port}"]) as url,
                    httpx2.AsyncClient(base_url=url, timeout=PATIENCE_S, trust_env=False) as http,
                ):
                    headers = bearer(await one.key(credit="1")) | {"content-type": "application/json"}
                    backend.answer_with(unary())
                    body = orjson.dumps(chat_body(model=PRICED["id"]))
                    for _ in range(8):
                        answer = await http.post("/v1/chat/completions", content=body, headers=headers)
                        assert answer.status_code == 200, answer.text
                    asked = [of.gateway.activity.last_day().requests for of in (one, two)]
                    assert sum(asked) == 8
                    assert all(asked)

                    rest = asyncio.Event()
                    first, *others = stream()
                    backend.answer_with(in_two([first], rest, others))
                    body = orjson.dumps(chat_body(model=PRICED["id"], stream=True))
                    async with http.stream("POST", "/v1/chat/completions", content=body, headers=headers) as answer:
                        lines = aiter(answer.aiter_lines())
                        assert (await anext(lines)).startswith("data: ")
                        rest.set()
                        assert "data: [DONE]" in [line async for line in lines]
    finally:
        valkey.end()
