"""The real program as a process of its own, and what the system tells of it."""

import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx2

from tests.patience import PATIENCE_S, becomes


@dataclass(frozen=True)
class Weight:
    """What a process holds on to."""

    sockets: int
    tasks: int
    in_flight: int
    open_holds: int
    memory_bytes: int

    @property
    def rest(self) -> tuple[int, ...]:
        return self.sockets, self.tasks, self.in_flight, self.open_holds

    def is_within(self, other: "Weight") -> bool:
        return all(mine <= yours for mine, yours in zip(self.rest, other.rest, strict=True))


@dataclass(frozen=True)
class Program:
    """A server that runs; its numbers come from /proc and its own /metrics."""

    process: asyncio.subprocess.Process
    url: str

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def memory_bytes(self) -> int:
        return self._status_bytes("VmRSS")

    def peak_bytes(self) -> int:
        """The most memory that it ever had."""
        return self._status_bytes("VmHWM")

    def cpu_s(self) -> float:
        """What it has used of the processors."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _status_bytes(self, name: str) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition(f"{name}:")[2].split()[0]) * 1024

    async def weight(self) -> Weight:
        async with httpx2.AsyncClient(base_url=self.url, timeout=PATIENCE_S) as http:
            metrics = (await http.get("/metrics")).text
        links = [*self._links()]

        def value(name: str) -> int:
            return int(float(metrics.partition(f"\n{name} ")[2].split()[0]))

        sockets = sum(link.startswith("socket:") for link in links)
        tasks, in_flight, open_holds = map(value, ("gateway_tasks", "gateway_in_flight", "gateway_open_holds"))
        return Weight(sockets, tasks, in_flight, open_holds, self.memory_bytes())

    def _links(self) -> Iterator[str]:
        """What its descriptors stand for; one may be closed while they are looked through."""
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                yield os.readlink(f"/proc/{self.pid}/fd/{name}")

    async def settled(self, is_enough: Callable[[Weight], bool]) -> Weight:
        """The weight once it is low enough, or what it was when the patience ended."""
        with contextlib.suppress(TimeoutError):
            return await becomes(self.weight, is_enough)
        return await self.weight()

    async def end(self) -> None:
        """As a person would, at a terminal."""
        self.process.send_signal(signal.SIGINT)
        assert await self.process.wait() == 0


@contextlib.asynccontextmanager
async def running_program(
    config: Path, log: Path | None = None, *, open_files: tuple[int, int] | None = None, code: Path | None = None
) -> AsyncIterator[Program]:
    """The server with this configuration, once it serves; what it logs goes to `log`.

    `open_files` is its soft and hard limit of file descriptors, `code` the folder of its packages in place of ours.
    """
    limited = None if open_files is None else partial(resource.setrlimit, resource.RLIMIT_NOFILE, open_files)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environ["GATEWAY_UPSTREAM__START_WAIT_S"] = str(PATIENCE_S)
    with (log or Path(os.devnull)).open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mcp_gateway", "serve", "--config", str(config),
            stdout=asyncio.subprocess.PIPE, stderr=errors, env=environ, preexec_fn=limited, cwd=code,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            while b" on http://" not in (line := await process.stdout.readline()):
                assert line, "the server ended before it served"
        yield Program(process, line.split()[-1].decode())
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
