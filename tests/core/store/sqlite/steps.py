"""The writer's steps from one state to another: those that are drawn, and those that it makes."""

from mcp_gateway.core.store.sqlite import writer as writer_module
from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.store.sqlite.writer import State, Writer

Step = tuple[str, str]


class WatchedWriter(Writer):
    """One whose steps are noted."""

    @property
    def _state(self) -> State:
        state: State = self.__dict__["_state"]
        return state

    @_state.setter
    def _state(self, state: State) -> None:
        self.steps.append((self._state, state))
        self.__dict__["_state"] = state

    @property
    def steps(self) -> list[Step]:
        steps: list[Step] = self.__dict__.setdefault("steps", [])
        return steps


def watched(store: Store) -> WatchedWriter:
    """The writer of a store that has written nothing yet, with its steps from now on."""
    writer = store._writer
    writer.__class__ = WatchedWriter
    assert isinstance(writer, WatchedWriter)
    return writer


def drawn() -> set[Step]:
    """The table in the writer's own words."""
    lines = (writer_module.__doc__ or "").splitlines()
    head, _, *rows = [line.split() for line in lines if line.startswith("    ")]
    assert head == ["from", "to", "by"]
    return {(row[0], row[1]) for row in rows}
