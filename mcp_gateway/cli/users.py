"""`mcp-gateway users`: people who sign in."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from mcp_gateway.cli.desk import (
    LISTED_CHARS,
    ConfigOption,
    DataDirOption,
    JsonOption,
    QuietOption,
    answer,
    at_desk,
    fail,
    seconds,
    settings_of,
)
from mcp_gateway.core.caller import ROLES, Role
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.hosts import base_url_of
from mcp_gateway.core.identity.emails import canonical_email
from mcp_gateway.core.identity.passwords import MAX_CHARS, Passwords, check_new_password
from mcp_gateway.core.identity.people import Person, ToldSecret
from mcp_gateway.core.text import shown

app = typer.Typer(help="People who sign in, and the accounts that they belong to.", no_args_is_help=True)

EmailArgument = Annotated[str, typer.Argument(help="The e-mail address that the user signs in with.")]
UserArgument = Annotated[str, typer.Argument(help="The user's e-mail address or id, usr_...")]
AccountOption = Annotated[str | None, typer.Option("--account", help="An account that there is; left out: a new one.")]
RoleOption = Annotated[str, typer.Option(help=f"In the account: {', '.join(ROLES)}.")]
AdministratorOption = Annotated[bool, typer.Option("--administrator", help="Let the user run the gateway, too.")]
EvenLastOption = Annotated[
    bool, typer.Option("--even-last", help="Also where no other owner of the account, or no administrator, is left.")
]
StdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from one line of the standard input.")
]


@app.command("create")
def create_user(
    email: EmailArgument,
    account: AccountOption = None,
    role: RoleOption = "owner",
    is_administrator: AdministratorOption = False,
    password_stdin: StdinOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    quiet: QuietOption = False,
    is_json: JsonOption = False,
) -> None:
    """Make a user, with a password from the standard input, or a secret by which they choose one themselves.

    Where people sign in by an issuer alone, with neither.
    """
    asked_role = _role(role)
    gateway = _reached(config, data_dir)

    async def work(desk: Desk) -> None:
        address = canonical_email(email)
        password_hash = await _password_hash(address) if password_stdin else None
        person = await desk.people.create(
            address, password_hash=password_hash, account_id=account, role=asked_role, is_administrator=is_administrator
        )
        needs_secret = not password_stdin and desk.people.have_passwords
        secret = await desk.people.password_secret(person.id) if needs_secret else None
        words = f"user {person.id} ({person.email}), {person.role} of {person.account_id}"
        if secret is not None:
            words += f"\n{_password_words(secret, gateway)}"
        answer(person.id if quiet else words, _object_of(person) | _secret_object(secret), is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("invite")
def invite_user(
    email: Annotated[str | None, typer.Argument(help="The only e-mail address it is for; left out: any.")] = None,
    account: AccountOption = None,
    role: RoleOption = "owner",
    is_administrator: AdministratorOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    quiet: QuietOption = False,
    is_json: JsonOption = False,
) -> None:
    """Make a secret by which somebody registers once within a week, whatever the settings say of registration."""
    asked_role = _role(role)
    gateway = _reached(config, data_dir)

    async def work(desk: Desk) -> None:
        address = None if email is None else canonical_email(email)
        secret = await desk.people.invite(
            address, account_id=account, role=asked_role, is_administrator=is_administrator
        )
        words = _secret_words(secret, "register", "register", gateway)
        facts = {"email": address, "account": account, "role": asked_role} | _secret_object(secret)
        answer(secret.raw if quiet else words, facts, is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("change")
def change_user(
    user: UserArgument,
    role: Annotated[str | None, typer.Option(help=f"In the account: {', '.join(ROLES)}. Left out: as it was.")] = None,
    is_administrator: Annotated[
        bool | None,
        typer.Option(
            "--administrator/--no-administrator", help="Whether they run the gateway, too. Left out: as it was."
        ),
    ] = None,
    even_last: EvenLastOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Give a user another role in the account, or let them run the gateway, or not; sessions go on with it at once."""
    asked_role = None if role is None else _role(role)

    async def work(desk: Desk) -> None:
        person = await desk.people.named(user)
        changed = await desk.people.change(
            person.id, role=asked_role, is_administrator=is_administrator, even_last=even_last
        )
        words = f"user {changed.id} ({_email(changed)}), {changed.role} of {changed.account_id}"
        words += ", administrator" if changed.is_administrator else ""
        answer(words, _object_of(changed), is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("list")
def list_users(
    account: Annotated[str | None, typer.Option("--account", help="Those of one account alone.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Show all users, with their accounts and roles."""

    async def work(desk: Desk) -> None:
        people = await desk.people.list(account)
        head = f"{'id':<38}{'account':<38}{'role':<10}e-mail"
        answer("\n".join([head, *map(_line, people)]), [_object_of(person) for person in people], is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("disable")
def disable_user(
    user: UserArgument,
    undo: Annotated[bool, typer.Option("--undo", help="Let the user sign in again.")] = False,
    even_last: EvenLastOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Let a user sign in no longer, and end their sessions; keys that they made go on."""

    async def work(desk: Desk) -> None:
        person = await desk.people.named(user)
        await desk.people.set_active(person.id, is_active=undo, even_last=even_last)
        words = f"user {person.id} {'may sign in again' if undo else 'signs in no longer'}"
        answer(words, _object_of(await desk.people.get(person.id)), is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("password")
def reset_password(
    user: UserArgument,
    password_stdin: StdinOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    quiet: QuietOption = False,
    is_json: JsonOption = False,
) -> None:
    """Make a secret by which a user chooses a new password once within an hour, or read one; it ends their sessions."""
    gateway = _reached(config, data_dir)

    async def work(desk: Desk) -> None:
        person = await desk.people.named(user)
        if password_stdin:
            await desk.people.set_password(person.id, await _password_hash(person.email or ""))
            answer(f"user {person.id} has a new password", _object_of(person), is_json=is_json)
            return
        secret = await desk.people.password_secret(person.id)
        words = secret.raw if quiet else _password_words(secret, gateway)
        answer(words, _object_of(person) | _secret_object(secret), is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("delete")
def delete_user(
    user: UserArgument,
    even_last: EvenLastOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Delete a user: sessions, keys and the e-mail address go at once; the account's books stay, without a name."""

    async def work(desk: Desk) -> None:
        person = await desk.people.named(user)
        await desk.people.delete(person.id, even_last=even_last)
        answer(f"user {person.id} is deleted", {"id": person.id, "account": person.account_id}, is_json=is_json)

    at_desk(config, data_dir, work)


def _role(asked: str) -> Role:
    found = next((role for role in ROLES if role == asked), None)
    if found is None:
        fail(f"--role takes {', '.join(ROLES)}")
    return found


async def _password_hash(email: str) -> str:
    """Of the password that stands in one line of the standard input, so that no list of processes shows it."""
    line = await asyncio.to_thread(sys.stdin.readline, 4 * MAX_CHARS)
    password = line.rstrip("\r\n")
    check_new_password(password, email)
    passwords = Passwords()
    try:
        return await passwords.hashed(password)
    finally:
        passwords.close()


class _Reached(NamedTuple):
    """Where people reach the gateway; what the command line of a running server says of that, nobody knows here."""

    base_url: str
    is_public: bool


def _reached(config: Path | None, data_dir: Path | None) -> _Reached:
    settings = settings_of(config, data_dir)
    return _Reached(base_url_of(settings, settings.host, settings.port), settings.public_url is not None)


def _password_words(secret: ToldSecret, gateway: _Reached) -> str:
    return _secret_words(secret, "choose a password", "password", gateway)


def _secret_words(secret: ToldSecret, purpose: str, page: str, gateway: _Reached) -> str:
    words = f"{secret.raw}\nto {purpose} with, once and until {_time(secret.expires_at_ms)}:"
    words += f" {gateway.base_url}/console/{page}?token={secret.raw}"
    if gateway.is_public:
        return words
    return f"{words}\n(of the configuration's address: change it where `serve` was given another, or set public_url)"


def _secret_object(secret: ToldSecret | None) -> dict[str, Any]:
    return {} if secret is None else {"token": secret.raw, "token_expires_at": seconds(secret.expires_at_ms)}


def _object_of(person: Person) -> dict[str, Any]:
    return {
        "id": person.id,
        "email": person.email,
        "account": person.account_id,
        "role": person.role,
        "administrator": person.is_administrator,
        "active": person.is_active,
        "has_password": person.has_password,
        "has_issuer": person.has_issuer,
        "created_at": seconds(person.created_at_ms),
    }


def _line(person: Person) -> str:
    marks = ("" if person.is_active else " (disabled)") + (" (administrator)" if person.is_administrator else "")
    marks += " (by the issuer)" if person.has_issuer else ""
    return f"{person.id:<38}{person.account_id:<38}{person.role:<10}{_email(person)}{marks}"


def _email(person: Person) -> str:
    return shown(person.email or "no e-mail", LISTED_CHARS)


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
