"""What the commands share: options, the settings and the database of a call, its answer in words or JSON, its end."""

import asyncio
import getpass
import json
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from mcp_gateway import __version__
from mcp_gateway.core.audit.log import Actor
from mcp_gateway.core.catalog import is_model_id
from mcp_gateway.core.clock import DAY_MS, HOUR_MS, MINUTE_MS
from mcp_gateway.core.config import ConfigError, Settings, load_settings
from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.gateway import Desk, open_desk
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.ledger.checkpoint import LedgerBroken
from mcp_gateway.core.ledger.orders import Undecided
from mcp_gateway.core.ledger.pending import ForeignPending
from mcp_gateway.core.money import parse_usd
from mcp_gateway.core.observe.logs import configure_logging
from mcp_gateway.core.store.database import ForeignLog, SchemaTooNew, ServedByOlder
from mcp_gateway.core.store.opening import database_in
from mcp_gateway.core.store.sole import AlreadyServed
from mcp_gateway.core.text import is_one_line, shown

T = TypeVar("T")

LISTED_CHARS = 200
"""Of a name; older versions took names of any kind, which must not move an operator's cursor."""
_MAX_DAYS = 100_000
_LIFETIME = re.compile("([1-9][0-9]{0,4})([mhd])")
_UNITS_MS = {"m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
FAULTS = (DatabaseError, OSError, UnicodeEncodeError)
"""Of files and of what a command was given, whatever it does."""

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file; otherwise ./gateway.toml where there is one.")
]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of the database; otherwise as the settings say.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print the bare id or key alone.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AccountArgument = Annotated[str, typer.Argument(help="The account's id, acc_...")]
KeyArgument = Annotated[str, typer.Argument(help="The key's id, key_...")]


def settings_of(config: Path | None, data_dir: Path | None, given: Mapping[str, str] | None = None) -> Settings:
    """The settings of a call, with what its options give over those of the environment and the file."""
    try:
        return load_settings(config, environment_of(data_dir, given or {}))
    except ConfigError as error:
        fail(str(error))


def environment_of(data_dir: Path | None, given: Mapping[str, str]) -> dict[str, str]:
    """The environment, with what options give over it."""
    folder = {} if data_dir is None else {"GATEWAY_DATA_DIR": str(data_dir)}
    return {**os.environ, **given, **folder}


def at_desk(config: Path | None, data_dir: Path | None, work: Callable[[Desk], Awaitable[None]]) -> None:
    """Do `work` at the database of these settings."""
    settings = settings_of(config, data_dir)
    configure_logging("warning")

    async def at_desk() -> None:
        database_in(*settings.database_place).check()
        async with open_desk(settings, _operator()) as desk:
            await work(desk)

    run(at_desk())


def _operator() -> Actor:
    """Who runs the command, and on which host, as the system knows them."""
    try:
        name = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container's user that has no name
        name = f"uid {os.getuid()}"
    return Actor("shell", name, socket.gethostname())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; what an operator can mend is said in one line, without a traceback."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(work)
    except GatewayError as error:
        fail(error.message)
    except Undecided as error:
        fail(str(error), status=3)
    except (SchemaTooNew, ServedByOlder) as error:
        fail(f"{error} (this is {__version__})")
    except (AlreadyServed, ConfigError, ForeignLog, ForeignPending, LedgerBroken, *FAULTS) as error:
        fail(in_words(error))


def in_words(error: Exception) -> str:
    """What an operator can mend, in one line: of a file, which and why."""
    if isinstance(error, UnicodeEncodeError):
        return "an argument is not text: it holds bytes that are no characters"
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return f"{shown(str(error.filename), LISTED_CHARS)}: {error.strerror}"
    return str(error)


def answer(words: str, facts: object, *, is_json: bool) -> None:
    """Print what a command found or did: `words`, or `facts` as JSON in ASCII, which no terminal takes for commands.

    What the terminal's encoding has no character for is escaped: what was done must be told.
    """
    encoding = sys.stdout.encoding or "utf-8"
    typer.echo(json.dumps(facts, indent=2) if is_json else words.encode(encoding, "backslashreplace").decode(encoding))


def seconds(at_ms: int | None) -> int | None:
    """Unix seconds, as JSON tells times here."""
    return None if at_ms is None else at_ms // 1000


def amount(text: str) -> int:
    """Nano-USD, more than nothing."""
    amount_nano = any_amount(text)
    if amount_nano <= 0:
        fail(f"'{shown(text)}' is not more than nothing")
    return amount_nano


def any_amount(text: str) -> int:
    """Nano-USD."""
    try:
        return parse_usd(text)
    except ValueError as error:
        fail(str(error))


def after_days(days: float | None) -> int | None:
    """Unix milliseconds of a time to come; None where there is none."""
    if days is None:
        return None
    if not 0 <= days <= _MAX_DAYS:
        fail(f"--expires-in-days takes a number up to {_MAX_DAYS:,}")
    return now_ms() + int(days * DAY_MS)


def after(lifetime: str | None) -> int | None:
    """The same of a lifetime as in `7d`."""
    return None if lifetime is None else now_ms() + lifetime_ms(lifetime, "--expires-in")


def lifetime_ms(lifetime: str, option: str) -> int:
    """Of a time as in `7d`."""
    found = _LIFETIME.fullmatch(lifetime)
    if found is None:
        fail(f"{option} takes a number of minutes, hours or days, such as 30m, 12h or 7d")
    return int(found[1]) * _UNITS_MS[found[2]]


def model_names(asked: Sequence[str], option: str) -> list[str]:
    """Of texts with names between commas, all names."""
    names = [name.strip() for text in asked for name in text.split(",")]
    if not all(name and is_model_id(name) and is_one_line(name) for name in names):
        fail(f"{option} takes ids of models between commas")
    return names


def fail(message: str, *, status: int = 2) -> NoReturn:
    """End the command with the status of those that could not be done."""
    typer.echo(f"mcp-gateway: {message}", err=True)
    raise typer.Exit(status)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - not available on Windows

    return uvloop.new_event_loop
