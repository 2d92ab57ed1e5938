"""Metrics of several worker processes, told by whichever is asked: each series by the number of its worker.

Nothing is summed up: counters of a worker that has died would else seem to go back.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from mcp_gateway.core.observe.metrics import Metrics

_ANSWER_S = 2.0
"""How long one is waited for; one that says nothing is left out."""
_FAMILY = b"# HELP "


class WorkerMetrics:
    """Of the worker of that number; all have a socket in one folder, which is theirs alone."""

    def __init__(self, number: int, folder: Path) -> None:
        self._number = number
        self._folder = folder

    @contextlib.asynccontextmanager
    async def told(self, metrics: Metrics) -> AsyncIterator[None]:
        """Tell others this process's, and have its own page tell everybody's, while this lasts."""
        path = self._path(self._number)
        path.unlink(missing_ok=True)  # of one that was killed

        async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer), contextlib.suppress(OSError):
                writer.write(await metrics.told())
                await writer.drain()

        server = await asyncio.start_unix_server(tell, path)
        metrics.told_by_all = self._of_all
        async with server:
            yield

    async def _of_all(self, own: bytes) -> bytes:
        others = [path for path in self._folder.glob("*.sock") if path != self._path(self._number)]
        texts = await asyncio.gather(*map(_asked, others))
        named = dict(zip((int(path.stem) for path in others), texts, strict=True)) | {self._number: own}
        return merged({number: named[number] for number in sorted(named)})

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.sock"


async def _asked(path: Path) -> bytes:
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(path)
            with contextlib.closing(writer):
                return await reader.read()
    except OSError:  # of an end, and of too long a silence
        return b""


def merged(texts: Mapping[int, bytes]) -> bytes:
    """Expositions as one, family by family, with a label more: `worker`."""
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for number, text in texts.items():
        family = b""
        for line in text.splitlines():
            if line.startswith(_FAMILY):
                family = line.split(b" ", 3)[2]
                if family not in heads:
                    heads[family], samples[family] = [line], []
            elif line.startswith(b"#"):
                if len(heads[family]) == 1:
                    heads[family].append(line)
            elif line:
                samples[family].append(_labelled(line, number))
    return b"".join(b"\n".join([*heads[family], *samples[family], b""]) for family in heads)


def _labelled(line: bytes, number: int) -> bytes:
    """A name has neither space nor brace."""
    name, brace, labels = line.partition(b"{")
    if brace and b" " not in name:
        return b'%b{worker="%d",%b' % (name, number, labels)
    name, _, value = line.partition(b" ")
    return b'%b{worker="%d"} %b' % (name, number, value)
