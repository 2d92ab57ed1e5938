"""Names that rows repeat, each written once: rows have its number.

Accounts, keys, models, backends and versions of prices: what the operator or the gateway makes, never a caller's text,
since names are kept.
"""

from collections.abc import Iterable, Mapping

from mcp_gateway.core.store.connection import EngineConnection

NUMBER_OF = "(SELECT number FROM names WHERE name = {})"
NAME_OF = "(SELECT name FROM names WHERE number = {})"
_MOST = 10_000
"""Known at once: more than are in use, and a few MB."""

Names = tuple[str | None, ...]
_NumbersOf = tuple[int | None, ...]


class Numbers(dict[Names, _NumbersOf]):
    """The numbers of names that come together, as far as the writer knows them; new names are written.

    What is written in a transaction that is rolled back has no number any more: `clear` them with it.
    """

    def __init__(self, connection: EngineConnection) -> None:
        super().__init__()
        self._connection = connection

    def __missing__(self, names: Names) -> _NumbersOf:
        if len(self) >= _MOST:
            self.clear()
        numbers = self[names] = tuple(None if name is None else self._number(name) for name in names)
        return numbers

    def note(self, combined: Iterable[Names], numbers: Mapping[str, int]) -> None:
        """What is known of these names by now."""
        for names in combined:
            if len(self) >= _MOST:
                self.clear()
            self[names] = tuple(None if name is None else numbers[name] for name in names)

    def _number(self, name: str) -> int:
        found = self._connection.execute("SELECT number FROM names WHERE name = ?", (name,)).fetchone()
        if found is not None:
            return int(found[0])
        number = self._connection.execute("INSERT INTO names (name) VALUES (?)", (name,)).lastrowid
        assert number is not None
        return number
