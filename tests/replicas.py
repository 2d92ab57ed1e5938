"""Replicas that share a process, and need nothing else: what is told is heard at once."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from itertools import count

from mcp_gateway.core.replicas import ReplicasAway


class Neighbourhood:
    """Those that know each other; `is_away` is when nothing connects them."""

    def __init__(self) -> None:
        self.replicas: dict[str, LocalReplicas] = {}
        self.is_away = False
        self.noted: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._numbers = count(1)

    def join(self) -> "LocalReplicas":
        name = f"replica{next(self._numbers)}"
        self.replicas[name] = LocalReplicas(self, name)
        return self.replicas[name]

    def check(self) -> None:
        if self.is_away:
            raise ReplicasAway


class LocalReplicas:
    """One of them."""

    def __init__(self, neighbourhood: Neighbourhood, name: str) -> None:
        self._all = neighbourhood
        self.own_name = name
        self.news: Callable[[bytes], None] = lambda _: None
        self.answer: Callable[[bytes], Awaitable[bytes]] | None = None

    def derived(self, purpose: bytes) -> bytes:
        return purpose.ljust(32)

    def hear(self, news: Callable[[bytes], None], answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        self.news, self.answer = news, answer

    def tell_all(self, text: bytes) -> None:
        if not self._all.is_away:
            for other in self._all.replicas.values():
                if other is not self:
                    other.news(text)

    async def ask(self, name: str, text: bytes) -> bytes | None:
        self._all.check()
        other = self._all.replicas.get(name)
        return None if other is None or other.answer is None else await other.answer(text)

    async def note(self, name: str, fields: Mapping[str, str | None], lasts_s: int) -> None:
        self._all.check()
        for field, value in fields.items():
            self._all.noted[name].pop(field, None)
            if value is not None:
                self._all.noted[name][field] = value

    async def noted(self, name: str) -> Mapping[str, str]:
        self._all.check()
        return self._all.noted[name]
