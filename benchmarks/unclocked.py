"""The gateway's commands, without what a running gateway writes by the clock: a slow run would have more of it.

python benchmarks/unclocked.py serve ...        (as python -m mcp_gateway)
"""

from mcp_gateway.__main__ import main
from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.limits import day_counts

day_counts.INTERVAL_S = DAY_MS / 1000

if __name__ == "__main__":
    main()
