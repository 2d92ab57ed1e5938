"""The suite's scenarios for authorization servers, against the gateway's own: a person lets the suite in, by HTTP."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import httpx2

from tests.doors.test_console import PASSWORD
from tests.patience import PATIENCE_S
from tests.serving import Door, open_door

_QUESTION = re.compile(r"http://127\.0\.0\.1:\d+/oauth/authorize\?\S+")
_FIELD = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)"')


@dataclass(frozen=True, slots=True)
class SuiteClient:
    """What the suite is told: it registers nothing itself."""

    door: Door
    client_id: str
    port: int
    cookie: str

    @property
    def arguments(self) -> tuple[str, ...]:
        resource = f"{self.door.url}/v1/mcp"
        told = ("--url", self.door.url, "--client-id", self.client_id, "--resource", resource)
        return (*told, "--port", str(self.port))

    async def let_in(self, question: str) -> None:
        """As a browser does for a person who is signed in."""
        headers = {"cookie": f"__Host-gw_console={self.cookie}", "sec-fetch-site": "same-origin"}
        http = self.door.http
        page = await http.get(question.removeprefix(self.door.url), headers=headers)
        page = await http.get(page.headers["location"], headers=headers)
        fields = {name: unescape(value) for name, value in _FIELD.findall(page.text)}
        chosen = {"decision": "allow", "expires_in_days": "1"}
        answer = await http.post("/console/authorize", data=fields | chosen, headers=headers)
        async with httpx2.AsyncClient(timeout=PATIENCE_S) as browser:
            await browser.get(answer.headers["refresh"].removeprefix("0; url="))


@contextlib.asynccontextmanager
async def served_authorization_server(data_dir: Path) -> AsyncIterator[SuiteClient]:
    """A gateway with a person, and a client that is answered at a port of the suite's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings: dict[str, Any] = {"oauth": {"enabled": True}, "users": {"registration": "open"}}
        async with open_door(data_dir, listener=listener, public_url=url, **settings) as door:
            here = {"counted_as": "tests", "agent": "tests", "address": "127.0.0.1"}
            signed = await door.gateway.sign_in.register("ada@example.com", PASSWORD, secret=None, **here)
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            told = {"redirect_uris": [f"http://127.0.0.1:{port}/callback"]}
            client = (await door.http.post("/oauth/register", json=told)).json()
            yield SuiteClient(door, client["client_id"], port, signed.cookie)


async def run_authorization(node: Path, program: Path, data_dir: Path, results: str) -> tuple[int, str]:
    """The exit status of the suite, and what it printed."""
    async with served_authorization_server(data_dir) as client:
        process = await asyncio.create_subprocess_exec(
            node, program, "authorization", *client.arguments, "-o", results,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        output = ""
        async for line in process.stdout:
            output += line.decode()
            if (question := _QUESTION.search(line.decode())) is not None:
                await client.let_in(question[0])
        return await process.wait(), output
