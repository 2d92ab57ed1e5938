"""Metrics of several processes as one page, and sockets by which they listen at one address."""

import socket
from pathlib import Path

import pytest

from http_api.listening import listeners, reserved
from http_api.worker_metrics import WorkerMetrics, merged
from mcp_gateway.core.observe.metrics import Metrics

ONE = b"""# HELP a_total What, "quoted".
# TYPE a_total counter
a_total{name="x y{z} "} 1.0
# HELP b Other.
# TYPE b gauge
b 2.0
"""
OTHER = ONE.replace(b"1.0", b"3.0") + b"# HELP c Its own.\n# TYPE c gauge\nc 1e+06\n"


def test_each_series_is_told_by_its_worker_and_each_family_once() -> None:
    assert merged({1: ONE, 2: OTHER, 3: b""}).decode().splitlines() == [
        '# HELP a_total What, "quoted".',
        "# TYPE a_total counter",
        'a_total{worker="1",name="x y{z} "} 1.0',
        'a_total{worker="2",name="x y{z} "} 3.0',
        "# HELP b Other.",
        "# TYPE b gauge",
        'b{worker="1"} 2.0',
        'b{worker="2"} 2.0',
        "# HELP c Its own.",
        "# TYPE c gauge",
        'c{worker="2"} 1e+06',
    ]


async def test_whoever_is_asked_tells_of_all_and_leaves_out_who_has_died(tmp_path: Path) -> None:
    one, other = Metrics(), Metrics()
    one.in_flight.set(3)
    other.refresh = lambda: other.in_flight.set(4)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "3.sock"))
    async with WorkerMetrics(1, tmp_path).told(one), WorkerMetrics(2, tmp_path).told(other):
        pages = []
        for metrics in (one, other):
            assert metrics.told_by_all is not None
            page = await metrics.told_by_all(await metrics.told())
            pages.append([line for line in page.decode().splitlines() if "gateway_in_flight" in line])
    assert pages[0] == pages[1]
    assert pages[0][2:] == ['gateway_in_flight{worker="1"} 3.0', 'gateway_in_flight{worker="2"} 4.0']


def test_processes_listen_at_an_address_that_is_kept_for_them_and_nobody_else() -> None:
    port, kept = reserved("127.0.0.1", 0)
    first, second = [listeners("127.0.0.1", port)[0] for _ in range(2)]
    for one in (first, second):
        assert one.getsockname() == ("127.0.0.1", port)
        one.listen()
    with pytest.raises(OSError, match=f"somebody listens at 127.0.0.1 port {port}"):
        reserved("127.0.0.1", port)
    for one in (first, second, *kept):
        one.close()
