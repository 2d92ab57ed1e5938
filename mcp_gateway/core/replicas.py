"""What replicas tell each other, and what they know together: said here, done by what they share (`core/valkey`)."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from mcp_gateway.core.engine import Write

Hear = Callable[[bytes], None]
"""Is told what another replica has told all."""
AnswerReplica = Callable[[bytes], Awaitable[bytes]]
"""Answers what another replica asks of this one."""


class ReplicasAway(Exception):
    """Nothing can be said to other replicas now: what connects them is away, or has not answered in time."""


class Replicas(Protocol):
    """The replicas of one gateway, this one among them."""

    @property
    def own_name(self) -> str:
        """Of this process; another that is started later has another."""

    def derived(self, purpose: bytes) -> bytes:
        """A secret of 32 bytes that all replicas have and nobody else, for a purpose."""

    def hear(self, news: Hear, answer: AnswerReplica) -> None:
        """Have `news` told of what others tell all, and `answer` asked what others ask of this one."""

    def tell_all(self, text: bytes) -> None:
        """All others; those that cannot be reached now never hear it."""

    async def ask(self, name: str, text: bytes) -> bytes | None:
        """The answer of one of them; None where there is none of that name. Raises ReplicasAway."""

    async def note(self, name: str, fields: Mapping[str, str | None], lasts_s: int) -> None:
        """Have all know these fields of something for so long; None forgets one. Raises ReplicasAway."""

    async def noted(self, name: str) -> Mapping[str, str]:
        """The fields of something; none where nothing was noted. Raises ReplicasAway."""


@dataclass(frozen=True, slots=True)
class KeepSharedSecret(Write[bytes]):
    """Keep a secret where none is kept by that name yet; the one that is kept comes back."""

    name: str
    secret: bytes
