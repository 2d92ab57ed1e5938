"""Replicas that share a Valkey: it carries what they tell each other, and keeps for a while what all are to know.

What is published is sealed by a secret that the replicas have from their database, and counted: whoever else may
publish there is not heard, and what is said once is heard once. Content passes through and is never kept.
"""

import asyncio
import hashlib
import hmac
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from pathlib import Path
from secrets import token_hex

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcp_gateway.core.errors import outline
from mcp_gateway.core.log_limit import LogLimit
from mcp_gateway.core.replicas import AnswerReplica, Hear, ReplicasAway
from mcp_gateway.core.valkey.channels import Channels
from mcp_gateway.core.valkey.client import Valkey
from mcp_gateway.core.valkey.link import Command, ValkeyDown
from mcp_gateway.core.valkey_address import ValkeyAddress

logger = logging.getLogger(__name__)

_CLIENT_NAME = "mcp-gateway"
_VALKEY_ANSWER_S = 2.0
"""Bodies may be large, and nobody's admission waits here."""
_ANSWER_S = 10.0
"""How long another replica may take."""
_MOST_ANSWERED = 1000
"""Of what others ask, at once; what is more is not answered."""
_NONCE_BYTES = 12
_NEWS, _ASKED, _ANSWERED = "news", "asked", "answered"


class ValkeyReplicas:
    """This process among them. `keep` is for as long as it lives."""

    def __init__(self, address: ValkeyAddress, secret: bytes, *, ca_file: Path | None = None) -> None:
        """`secret` is what all replicas have in common."""
        self._secret = secret
        self._seal = AESGCM(self.derived(b"messages"))
        self._prefix = f"mcp-gateway:{self.derived(b'names').hex()[:16]}:"  # channels are the same in all databases
        self.own_name = token_hex(6)
        self._all = self._channel_of("*")
        self._own = self._channel_of(self.own_name)
        self._valkey = Valkey(address, (), client_name=_CLIENT_NAME, ca_file=ca_file, answer_s=_VALKEY_ANSWER_S)
        self._channels = Channels(
            address,
            (self._all, self._own),
            self._take,
            client_name=_CLIENT_NAME,
            ca_file=ca_file,
            answer_s=_VALKEY_ANSWER_S,
        )
        self._numbers = count(1)
        self._last_of: dict[str, int] = {}
        """The number of what each of the others said last."""
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._news: Hear = lambda _: None
        self._answer: AnswerReplica | None = None
        self._warnings = LogLimit(logger)

    def derived(self, purpose: bytes) -> bytes:
        return hmac.digest(self._secret, purpose, hashlib.sha256)

    def hear(self, news: Hear, answer: AnswerReplica) -> None:
        self._news = news
        self._answer = answer

    @property
    def loops(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """What has to go on for as long as anything is to be heard."""
        return {"replicas": self._valkey.watch, "replicas_heard": self._channels.watch}

    async def begin(self) -> None:
        """Try to connect, once."""
        await asyncio.gather(self._valkey.begin(), self._channels.begin())

    def tell_all(self, text: bytes) -> None:
        self._valkey.tell(b"".join(_packed(self._published(self._all, _NEWS, 0, text))))

    async def ask(self, name: str, text: bytes) -> bytes | None:
        number = next(self._numbers)
        answer: asyncio.Future[bytes]
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            told = await self._told(self._published(self._channel_of(name), _ASKED, number, text, number))
            if not told:
                return None
            async with asyncio.timeout(_ANSWER_S):
                return await answer
        except TimeoutError:
            raise ReplicasAway from None
        finally:
            del self._asked[number]

    async def note(self, name: str, fields: Mapping[str, str | None], lasts_s: int) -> None:
        key = self._prefix + name
        kept = [part for field, value in fields.items() if value is not None for part in (field, value)]
        gone = [field for field, value in fields.items() if value is None]
        commands: list[Command] = []
        if kept:
            commands.append(("HSET", key, *kept))
        if gone:
            commands.append(("HDEL", key, *gone))
        commands.append(("EXPIRE", key, max(1, lasts_s)))
        try:
            await asyncio.gather(*[self._valkey.ask(command) for command in commands])
        except ValkeyDown:
            raise ReplicasAway from None

    async def noted(self, name: str) -> Mapping[str, str]:
        found = await self._told(("HGETALL", self._prefix + name))
        assert isinstance(found, list)
        texts = [part.decode() for part in found]
        return dict(zip(texts[::2], texts[1::2], strict=True))

    async def _told(self, command: Command) -> object:
        try:
            return await self._valkey.ask(command)
        except ValkeyDown:
            raise ReplicasAway from None

    def _channel_of(self, name: str) -> bytes:
        return f"{self._prefix}{name}".encode()

    def _published(
        self, channel: bytes, kind: str, of: int, text: bytes, number: int | None = None
    ) -> tuple[bytes, ...]:
        """The command; `of` is the number of what is answered, or asked."""
        head = orjson.dumps([kind, self.own_name, next(self._numbers) if number is None else number, of])
        nonce = os.urandom(_NONCE_BYTES)
        return b"PUBLISH", channel, nonce + self._seal.encrypt(nonce, head + b"\n" + text, channel)

    def _take(self, sealed: bytes) -> None:
        """What comes on either channel; it says by its seal on which."""
        for channel in (self._own, self._all):
            try:
                opened = self._seal.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], channel)
            except (InvalidTag, ValueError):
                continue
            return self._heard(opened)
        self._warnings.warning("something was published in Valkey that is of no replica of this gateway")
        return None

    def _heard(self, opened: bytes) -> None:
        head, _, text = opened.partition(b"\n")
        kind, sender, number, of = orjson.loads(head)
        if sender == self.own_name or number <= self._last_of.get(sender, 0):
            return
        self._last_of[sender] = number
        if kind == _NEWS:
            self._news(text)
        elif kind == _ANSWERED:
            waiting = self._asked.get(of)
            if waiting is not None and not waiting.done():
                waiting.set_result(text)
        elif self._answer is not None and len(self._answering) < _MOST_ANSWERED:
            task = asyncio.ensure_future(self._reply(self._answer, sender, of, text))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _reply(self, answer: AnswerReplica, sender: str, of: int, text: bytes) -> None:
        try:
            said = await answer(text)
        except Exception as error:  # noqa: BLE001 - who asked hears nothing, as of a replica that has died
            logger.error("what another replica asked failed with %s", outline(error))
            return
        self._valkey.tell(b"".join(_packed(self._published(self._channel_of(sender), _ANSWERED, of, said))))


def _packed(parts: tuple[bytes, ...]) -> list[bytes]:
    return [b"*%d\r\n" % len(parts), *(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)]
