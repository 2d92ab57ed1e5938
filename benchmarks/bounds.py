"""What the worst of each kind costs: every regular expression of ours on a text of 100 kB made against it.

    python -m benchmarks.bounds          (from the project's folder)

Ends with status 1 where a line is above its limit: 5 ms, and 0.3 us for each match, which whoever wants them all has to
bound. CPU time, so that another load on the machine matters little.
"""

import re
import sys
import time
from collections.abc import Iterator
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from tests.expressions import REPEATS, Expression, expressions

TEXT_BYTES = 100_000
MOST_MS = 5.0
MOST_MS_PER_MATCH = 0.0003
_TRIES = 3


def texts_against(expression: Expression) -> Iterator[str]:
    """Its own beginnings again and again, each with what its repeats may run over, and without what would end it."""
    begun = [""]
    fills = {"x", "\n", "\\", '"', " ", "0"}
    for kind, value in _flat(parser.parse(expression.pattern, expression.flags)):
        if kind in REPEATS:
            fills |= {_example(*value[2][0]) or "x"}
        elif example := _example(kind, value):
            begun.append(begun[-1] + example)
    for start in begun:
        for fill in fills:
            yield start + fill * TEXT_BYTES
            yield (start + fill) * (TEXT_BYTES // len(start + fill))
            yield (start + fill * 50) * (TEXT_BYTES // (len(start) + 50))
            yield start * (TEXT_BYTES // 2 // max(1, len(start))) + fill * (TEXT_BYTES // 2)


def _flat(items: Any) -> Iterator[tuple[Any, Any]]:
    """The items in their order, groups and alternatives opened, each repeat before what it repeats."""
    for kind, value in items:
        yield kind, value
        if kind in REPEATS:
            yield from _flat(value[2])
        elif kind is op.SUBPATTERN:
            yield from _flat(value[-1])
        elif kind is op.BRANCH:
            for way in value[1]:
                yield from _flat(way)


def _example(kind: Any, value: Any) -> str:
    """A character that the item takes; none for what takes none."""
    if kind is op.LITERAL:
        return chr(value)
    if kind is op.IN and value[0][0] is op.LITERAL:
        return chr(value[0][1])
    if kind is op.IN and value[0][0] is op.RANGE:
        return chr(max(value[0][1][0], 32))
    return "1" if kind is op.IN and value[0][0] is op.CATEGORY else "x" if kind in (op.IN, op.ANY) else ""


def worst_of(expression: Expression) -> tuple[float, int]:
    """CPU milliseconds, less what its matches may take, for the text that it takes longest for; and those matches."""
    compiled = re.compile(expression.pattern, expression.flags)
    tried = (min(_cost(compiled, expression, text) for _ in range(_TRIES)) for text in texts_against(expression))
    return max(tried, key=lambda cost: cost[0] - cost[1] * MOST_MS_PER_MATCH)


def _cost(compiled: Any, expression: Expression, text: str) -> tuple[float, int]:
    given = (text if isinstance(expression.pattern, str) else text.encode("latin-1", "replace"))[:TEXT_BYTES]
    began_s = time.process_time()
    matches = len(compiled.findall(given)) if expression.is_searched else compiled.fullmatch(given) is not None
    return (time.process_time() - began_s) * 1000, int(matches)


def main() -> int:
    print(f"{'expression':<50}{'worst ms for 100 kB':>20}{'matches':>10}")
    is_within = True
    for expression in expressions():
        took_ms, matches = worst_of(expression)
        fits = took_ms <= MOST_MS + matches * MOST_MS_PER_MATCH
        is_within = is_within and fits
        print(f"{expression.where:<50}{took_ms:>20.2f}{matches:>10}{'' if fits else '   above its limit'}")
    return 0 if is_within else 1


if __name__ == "__main__":
    sys.exit(main())
