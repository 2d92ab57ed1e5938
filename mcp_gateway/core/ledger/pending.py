"""What the ledger could not write before the process ended, in a file beside the database: applied at the next start.

A disk that is full may be why, so the room for it is set aside while there is some. Knows nothing of balances.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson

from mcp_gateway.core.ledger.entries import Departure, Entry, GiveBack, Settle, SettleLate
from mcp_gateway.core.ledger.rules import Amount
from mcp_gateway.core.private import OWNER_ALONE
from mcp_gateway.core.record import AddRecord, Attribution, RequestRecord, RoutingFacts

logger = logging.getLogger(__name__)

PENDING = "settlements.pending"
_RESERVE = "settlements.reserve"
_RESERVE_BYTES = 1024 * 1024
Kept = Entry | RequestRecord
_KINDS: dict[str, type[Kept]] = {
    "charge": Settle, "settle": SettleLate, "give_back": GiveBack, "record": RequestRecord, "departure": Departure,
}  # fmt: skip
"""In the order in which they are written: money first, and last what corrects a record. `settle` is read alone."""


class ForeignPending(Exception):
    """The file belongs to another database than the one beside it."""


class PendingFile:
    """The file of one database, known by its id. Only the process that holds the folder's lock may touch it."""

    def __init__(self, folder: Path, database_id: str) -> None:
        self._path = folder / PENDING
        self._reserve = folder / _RESERVE
        self._database_id = database_id
        self.left_by: int | None = None

    def read(self) -> list[Kept]:
        """What an earlier process left, and `left_by` which replica that was; nothing where it left nothing.

        Raises ForeignPending, OSError.
        """
        if not self._path.exists():
            return []
        head, *lines = self._path.read_bytes().splitlines()
        told = orjson.loads(head)
        self.left_by = told.get("replica")
        if told["database"] != self._database_id:
            message = f"{self._path} holds settlements of another database; move it to where that one is, or away"
            raise ForeignPending(message)
        return [_entry(orjson.loads(line)) for line in lines]

    def remove(self) -> None:
        """Once everything in it has been applied."""
        self._path.unlink(missing_ok=True)

    def set_aside(self) -> None:
        """Take the room that `write` may need."""
        try:
            with _open(self._reserve) as file:
                file.write(bytes(_RESERVE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            logger.warning("no room could be set aside for settlements in an outage: %s", error.strerror)

    def give_up(self) -> None:
        """Everything was written: the room is not needed."""
        self._reserve.unlink(missing_ok=True)

    def write(self, unwritten: Sequence[Any], replica: int | None = None) -> None:
        """Keep what belongs to the ledger and the request log, in the room that was set aside; by which replica."""
        order = list(_KINDS.values())
        entries = sorted(_kept(unwritten), key=lambda entry: order.index(type(entry)))
        if not entries:
            return self.give_up()
        head = {"database": self._database_id} | ({} if replica is None else {"replica": replica})
        lines = [orjson.dumps(head), *map(_line, entries)]
        try:
            with _open(self._reserve) as file:
                file.write(b"\n".join(lines))
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
            self._reserve.replace(self._path)
        except OSError as error:
            logger.critical("%d settlements and records are lost: %s", len(entries), error.strerror)
        else:
            logger.warning("%d settlements and records wait in %s for the next start", len(entries), self._path)
        return None


def _open(path: Path) -> Any:
    """Opened without being cut, so that what was set aside stays; for its owner alone."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, OWNER_ALONE), "r+b")


def _kept(unwritten: Iterable[Any]) -> Iterator[Kept]:
    for one in unwritten:
        if isinstance(one, AddRecord):
            yield one.record
        elif type(one) in _KINDS.values():
            yield one


def _line(entry: Kept) -> bytes:
    [kind] = [name for name, of in _KINDS.items() if of is type(entry)]
    if isinstance(entry, RequestRecord):
        return orjson.dumps(entry._asdict() | {"kind": kind}, default=tuple)
    named = {field.name: getattr(entry, field.name) for field in fields(entry)}
    return orjson.dumps(named | {"record": entry.record and entry.record._asdict(), "kind": kind}, default=tuple)


def _entry(line: dict[str, Any]) -> Kept:
    kind = _KINDS[line.pop("kind")]
    if kind is RequestRecord:
        return _record(line)
    if line.get("record") is not None:
        line["record"] = _record(line["record"])
    if "charge" in line:
        paid_nano, parts = line["charge"]
        line["charge"] = Amount(paid_nano, tuple(map(tuple, parts)))
    if "windows" in line:
        line["windows"] = tuple(map(tuple, line["windows"]))
    return kind(**line)


def _record(told: dict[str, Any]) -> RequestRecord:
    """Files of earlier versions tell neither routing nor attribution."""
    record = RequestRecord(**told)
    if record.routing is not None:
        record = record._replace(routing=RoutingFacts(*record.routing))
    if record.attribution is not None:
        user, tags = record.attribution
        record = record._replace(attribution=Attribution(user, tuple(tags)))
    return record
