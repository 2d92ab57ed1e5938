"""What outcomes say of models, for each account: all counts in memory, as of the last commit and the last import.

Knows no request; what a table means is in quality.py.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping

from mcp_gateway.core.engine import DatabaseError, Engine
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.optimization import MovedByFeedback
from mcp_gateway.core.prompt_tasks import PromptTask
from mcp_gateway.core.record import SCORE_WHOLE
from mcp_gateway.core.routing.outcomes import (
    IMPORTED,
    Cell,
    CellCount,
    CountsOf,
    CountsOfAll,
    ImportOutcomes,
    ImportsSoFar,
    OutcomesMoved,
    ScoreRequest,
)
from mcp_gateway.core.routing.pooling import pooled
from mcp_gateway.core.routing.quality import NO_OUTCOMES, Outcomes, QualityTable, added

logger = logging.getLogger(__name__)

_WATCH_INTERVAL_S = 5.0
_MOST_CELLS = 200_000
"""Counts in memory, of all accounts, some 40 MB: what more there are, with the fewest outcomes, move nothing."""
_MOST_TABLES = 1000
Counts = dict[Cell, Outcomes]


class OutcomeBook:
    """`feedback` is whose choices an account's scores move: its own, those of all, or nobody's."""

    def __init__(
        self,
        store: Engine,
        priors: Mapping[str, Mapping[PromptTask, float]],
        feedback: MovedByFeedback,
        *,
        most_cells: int = _MOST_CELLS,
    ) -> None:
        self._store = store
        self._priors = priors
        self._feedback = feedback
        self._most_cells = self._room = most_cells
        self._counts: dict[str, Counts] = {IMPORTED: {}}
        """By account."""
        self._pooled: Counts = {}
        """Of all accounts, as far as it was asked for since a cell changed."""
        self._tables: dict[str, dict[str | None, QualityTable]] = {}
        """By account, IMPORTED where it has no outcomes of its own, and default model."""
        self._imports = 0
        self._moved: set[str | None] = set()
        """Accounts of which other servers have told that there is more to read; None for any that are not known."""
        if feedback != "off":
            store.listen(CellCount, self._take)
            store.listen(OutcomesMoved, lambda moved: self._moved.add(moved.account_id))
            store.on_unheard(lambda: self._moved.add(None))

    def expect(self, priors: Mapping[str, Mapping[PromptTask, float]]) -> None:
        """Take other expectations of models, which the settings name."""
        self._priors = priors
        self._tables.clear()

    async def begin(self) -> None:
        """Read what there is; once, before the first table."""
        self._imports = await self._store.read(ImportsSoFar())
        for count in await self._store.read(CountsOfAll(self._room)):
            if self._feedback != "off" or count.account_id == IMPORTED:
                self._take(count)
        if self._room <= 0:
            logger.warning("there are more counts of outcomes than are kept in memory: the smallest move nothing")

    def table_of(self, account_id: str, default_model: str | None) -> QualityTable:
        """What is expected of models for an account, as of now."""
        whose = account_id if self._feedback == "own" and account_id in self._counts else IMPORTED
        tables = self._tables.get(whose)
        if tables is None:
            tables = self._begin_tables(whose)
        table = tables.get(default_model)
        if table is None:
            table = tables[default_model] = QualityTable(self._outcomes_of(whose), self._priors, default_model)
        return table

    async def score(self, account_id: str, request_id: str, score: float, *, is_of_test_key: bool) -> bool:
        """Take a score from 0 to 1 for a request of this account; whether it counts.

        Raises GatewayError `insufficient_permissions` where none is kept, `not_found`, `ledger_unavailable`.
        """
        self.check_kept()
        parts = round(score * SCORE_WHOLE)
        return await self._store.write(ScoreRequest(account_id, request_id, parts, is_of_test_key))

    def check_kept(self) -> None:
        """Raises GatewayError `insufficient_permissions` where scores are not kept."""
        if self._feedback == "off":
            raise GatewayError("insufficient_permissions", "This gateway keeps no scores of answers.")

    async def bring(self, counts: Iterable[CellCount], *, in_place: bool) -> None:
        """Import the operator's outcomes, to those imported before or in their place. Raises `ledger_unavailable`."""
        await self._store.write(ImportOutcomes(tuple(counts), in_place))

    async def catch_up(self) -> None:
        """Read again what other processes have imported, or been told, since it was read. Raises DatabaseError."""
        if self._moved:
            await self._read_moved()
        imports = await self._store.read(ImportsSoFar())
        if imports == self._imports:
            return
        imported = await self._store.read(CountsOf(IMPORTED))
        self._imports = imports
        self._room += len(self._counts[IMPORTED])
        self._counts[IMPORTED] = {}
        self._tables.clear()
        self._pooled.clear()
        for count in imported:
            self._take(count)

    async def _read_moved(self) -> None:
        moved, self._moved = self._moved, set()
        reads = [CountsOfAll(self._most_cells) if one is None else CountsOf(one) for one in moved]
        try:
            for read in reads:
                for count in await self._store.read(read):
                    self._take(count)
        except DatabaseError:
            self._moved |= moved
            raise

    async def watch(self) -> None:
        """Keep up with other processes, until cancelled; what is known stays while nothing can be read."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            try:
                await self.catch_up()
            except DatabaseError as error:
                logger.error("outcomes could not be read again: %s", error)

    def _take(self, count: CellCount) -> None:
        cell = count.model_id, count.task
        counts = self._counts.get(count.account_id, {})
        if cell not in counts:
            if self._room <= 0:
                return
            self._room -= 1
            self._counts[count.account_id] = counts
        counts[cell] = count.outcomes
        self._pooled.pop(cell, None)
        self._tables.pop(count.account_id if self._feedback == "own" else IMPORTED, None)

    def _begin_tables(self, whose: str) -> dict[str | None, QualityTable]:
        if len(self._tables) >= _MOST_TABLES:
            del self._tables[next(iter(self._tables))]
        tables = self._tables[whose] = {}
        return tables

    def _outcomes_of(self, whose: str) -> Mapping[Cell, Outcomes]:
        if self._feedback == "all":
            return self._of_all()
        imported = self._counts[IMPORTED]
        if whose == IMPORTED:
            return imported
        own = self._counts[whose]
        return imported | {cell: added(imported.get(cell, NO_OUTCOMES), found) for cell, found in own.items()}

    def _of_all(self) -> Mapping[Cell, Outcomes]:
        imported = self._counts[IMPORTED]
        by_account = [counts for account_id, counts in self._counts.items() if account_id != IMPORTED]
        for cell in {cell for counts in self._counts.values() for cell in counts}.difference(self._pooled):
            found = [counts[cell] for counts in by_account if cell in counts]
            self._pooled[cell] = pooled(imported.get(cell, NO_OUTCOMES), found)
        return self._pooled
