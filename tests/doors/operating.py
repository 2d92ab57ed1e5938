"""An administrator at a served gateway: what they ask over HTTP and by commands, and what the audit log has of it."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.serving import Door, bearer, error_of
from tests.test_command_line import run


@dataclass(frozen=True, slots=True)
class Operating:
    """By one credential: an administrator's key, or a token."""

    door: Door
    shown: str

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        """Under /v1/admin."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = {} if body is None else {"json": body}
        return await self.door.http.request(method, f"/v1/admin/{path}", headers=bearer(self.shown) | named, **content)

    async def done(self, method: str, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        answer = await self.ask(method, path, body, **headers)
        assert answer.is_success, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def refused(self, method: str, path: str, body: Any = None) -> str:
        """The code, and the parameter that it is about, if any."""
        error = error_of(await self.ask(method, path, body))
        return f"{error['code']} {error['param']}" if error["param"] else str(error["code"])

    async def noted(self, subject: str) -> list[dict[str, Any]]:
        """What the log has of one, the newest first."""
        entries = (await self.done("GET", f"audit?subject={subject}"))["data"]
        return [{name: entry[name] for name in ("action", "before", "after")} for entry in entries]

    async def command(self, *words: str) -> Any:
        """What a command tells that works on the same database beside the server."""
        result = await asyncio.to_thread(run, *words, "--json", **self.door.environ)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)
