"""Whole programs that are replicas: one database, one Valkey, a folder for each."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import Desk, open_desk
from tests.crash.test_kill import write_config
from tests.patience import PATIENCE_S
from tests.postgres_server import Outside
from tests.postgres_stores import lent_database
from tests.program import Program, running_program
from tests.replaying import ReplayingBackend


@dataclass(frozen=True)
class Site:
    """What they have in common."""

    folder: Path
    url: str
    valkey_url: str
    backend: ReplayingBackend
    sections: str = ""
    """Of the configuration, beside the usual ones."""

    def replica(self, name: str, code: Path | None = None) -> AbstractAsyncContextManager[Program]:
        """One more, whose folder has that name; what it logs is beside that. `code` has its packages, if not ours."""
        return running_program(self.config(name), self.log(name), code=code)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def config(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        config = write_config(folder, self.backend)
        config.write_text(
            f'database_url = "{self.url}"\nvalkey_url = "{self.valkey_url}"\n{config.read_text()}{self.sections}'
        )
        return config

    @asynccontextmanager
    async def desk(self) -> AsyncIterator[Desk]:
        settings = {"data_dir": self.folder / "desk", "database_url": self.url, "valkey_url": self.valkey_url}
        async with open_desk(Settings.model_validate(settings)) as desk:
            yield desk

    @contextmanager
    def outside(self) -> Iterator[Outside]:
        with Outside(self.url) as outside:
            yield outside

    async def command(self, *arguments: str) -> str:
        """Of a program of its own, what it prints."""
        config = self.config("command")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mcp_gateway", *arguments, "--config", str(config), stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await process.communicate()
        assert process.returncode == 0
        return said.decode()


@asynccontextmanager
async def site_at(folder: Path, valkey_url: str, sections: str = "") -> AsyncIterator[Site]:
    with lent_database() as url:
        async with ReplayingBackend() as backend:
            yield Site(folder, url, valkey_url, backend, sections)


def client_of(program: Program) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=program.url, timeout=PATIENCE_S)
