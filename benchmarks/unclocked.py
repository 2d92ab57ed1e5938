"""The gateway's commands, without what a running gateway does by the clock: a slow run would have more of it.

python benchmarks/unclocked.py serve ...        (as python -m mcp_gateway)
"""

import asyncio

from mcp_gateway.__main__ import main
from mcp_gateway.core.loops import Loop, Loops


async def _rest(_loops: Loops, _name: str, _loop: Loop) -> None:
    await asyncio.Event().wait()


if __name__ == "__main__":
    Loops._keep = _rest  # type: ignore[assignment]  # every background loop is entered by it
    main()
