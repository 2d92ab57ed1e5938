"""`mcp-gateway serve --workers N`: processes of one gateway, on one address of one machine."""

import gc
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NoReturn

import typer

from mcp_gateway.cli.desk import environment_of, fail, in_words, run, settings_of
from mcp_gateway.core.config import Settings, load_settings
from mcp_gateway.core.ledger.pending import PENDING
from mcp_gateway.core.observe.logs import name_worker
from mcp_gateway.core.private import make_folder
from mcp_gateway.core.store.sole import AlreadyServed, sole_server

logger = logging.getLogger(__name__)

MOST_WORKERS = 128
_ALONE = (
    "--workers {} needs database_url and valkey_url: several processes have wallets, keys and sessions "
    "together in the one, and count limits together in the other"
)
_ON_LINUX = "--workers needs Linux, which spreads connections over processes that listen at one address"
_WAITING = "settlements wait in {}, which none of {} workers would write: serve with {} once"


def serve_by_workers(
    count: int, settings: Settings, config: Path | None, options: Mapping[str, str], desk_options: str
) -> NoReturn:
    """Serve until a signal says to end. Each worker has a folder in the data folder, which it finds again."""
    if not settings.is_replica:
        fail(_ALONE.format(count))
    if sys.platform != "linux":
        fail(_ON_LINUX)
    from http_api.listening import reserved  # noqa: PLC0415 - the server's imports take long
    from mcp_gateway.cli.supervisor import Supervisor  # noqa: PLC0415 - knows what Linux has

    make_folder(settings.data_dir)
    check_nothing_waits(settings.data_dir, count)
    try:
        with sole_server(settings.data_dir), tempfile.TemporaryDirectory(prefix="mcp-gateway-") as sockets_folder:
            port, kept = reserved(settings.host, settings.port)
            work = partial(_serve, settings.data_dir, config, {**options, "GATEWAY_PORT": str(port)}, desk_options)
            gc.collect()
            gc.freeze()  # what is loaded by now stays shared by all
            status = Supervisor(count, partial(work, Path(sockets_folder))).run()
            for one in kept:
                one.close()
    except (AlreadyServed, OSError) as error:
        fail(in_words(error))
    raise typer.Exit(status)


def _serve(
    data_dir: Path,
    config: Path | None,
    options: Mapping[str, str],
    desk_options: str,
    sockets_folder: Path,
    number: int,
    is_first: bool,
    serves: Callable[[], None],
) -> None:
    """In a process of its own."""
    from http_api.listening import listeners  # noqa: PLC0415 - the server's imports take long
    from http_api.program import Worker  # noqa: PLC0415 - the same
    from http_api.program import run as run_server  # noqa: PLC0415 - the same

    folder = data_dir / f"worker-{number}"
    settings = settings_of(config, folder, options)
    name_worker(number, settings.log_format)
    worker = Worker(number, sockets_folder, listeners(settings.host, settings.port), is_first and number == 1, serves)
    load = partial(load_settings, config, environment_of(folder, options))
    run(run_server(settings, load, desk_options=desk_options, worker=worker))


def check_nothing_waits(data_dir: Path, count: int) -> None:
    """Of money: what a process could not write stands in its folder until one with that folder begins."""
    if (data_dir / PENDING).exists():
        fail(_WAITING.format(data_dir / PENDING, count, "one process"))
    served = [data_dir / f"worker-{number + 1}" for number in range(count)]
    for path in sorted(data_dir.glob(f"worker-*/{PENDING}")):
        if path.parent not in served:
            fail(_WAITING.format(path, count, f"--workers {path.parent.name.removeprefix('worker-')}"))
