"""Who users are to an issuer, the accounts that it tells of, and who was deleted."""

from dataclasses import replace

from mcp_gateway.core.caller import Role
from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.identity.accounts import CreateAccount
from mcp_gateway.core.identity.oidc.identities import (
    Arrive,
    ForgetIdentities,
    Identity,
    KnownIdentity,
    StandingOf,
    ToldOfUser,
    UserOfIdentity,
    UserStanding,
    deleted_since,
    email_of_another,
    nobody_known,
)
from mcp_gateway.core.identity.people import (
    ChangePerson,
    CreatePerson,
    NewPerson,
    Person,
    PersonByEmail,
    PersonById,
    SetPassword,
)
from mcp_gateway.core.store.sql.accounts import note_change
from mcp_gateway.core.store.sql.users import end_made_secrets, person_by_id
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

_REMEMBERED_MS = 30 * DAY_MS
"""For so long who was deleted is told from who is new: longer than tokens are good."""
_NOTE_ENDED = "INSERT INTO ended_identities VALUES (?, ?) ON CONFLICT (sha256) DO UPDATE SET at_ms = excluded.at_ms"


def _arrive(transaction: Transaction, write: Arrive) -> UserStanding:
    asked = UserOfIdentity(write.told.identity, write.told.account_value)
    known = _user_of(transaction, asked) or _first_sight(transaction, write, asked)
    known.standing.check()
    if known.agrees_with(write.told):
        return known.standing
    _obey(transaction, write, known)
    after = transaction.ask(StandingOf(known.standing.person.id))
    assert after is not None
    after.check()
    return after


def _first_sight(transaction: Transaction, write: Arrive, asked: UserOfIdentity) -> KnownIdentity:
    told = write.told
    same = None if told.email is None else transaction.ask(PersonByEmail(told.email))
    if same is not None and not (write.links_by_email and _is_new_to(transaction, told.identity.issuer, same.person)):
        raise email_of_another()
    if same is None and write.new is None:
        raise nobody_known()
    ended = transaction.first("SELECT at_ms FROM ended_identities WHERE sha256 = ?", (told.identity.digest,))
    if ended is not None and told.issued_at_ms <= ended[0]:
        raise deleted_since()
    user_id = _link(transaction, same.person) if same is not None else _make(transaction, write, write.new)
    values = (*told.identity, user_id, same is None, told.issued_at_ms)
    transaction.execute("INSERT INTO identities VALUES (?, ?, ?, ?, ?)", values)
    note_change(transaction, user_id)
    found = _user_of(transaction, asked)
    assert found is not None
    return found


def _link(transaction: Transaction, person: Person) -> str:
    """As whom nobody comes any more by a password: whoever chose it has not shown that the address was theirs."""
    transaction.run(SetPassword(person.id, None))
    end_made_secrets(transaction, person.id)
    return person.id


def _is_new_to(rows: Rows, issuer: str, person: Person) -> bool:
    """Whether nobody has come as this user yet: addresses are given to others once their owners are gone."""
    sql = "SELECT 1 FROM identities WHERE issuer = ? AND user_id = ?"
    return rows.first(sql, (issuer, person.id)) is None


def _make(transaction: Transaction, write: Arrive, new: NewPerson | None) -> str:
    """A user, alone in an account that is made for them, or in that of all with the same value."""
    assert new is not None
    if write.told.account_value is not None:
        account_id, is_new = _claimed(transaction, write)
        new = replace(new, account=account_id, role=_role_in(write.told, is_new=is_new))
    return transaction.run(CreatePerson(new)).id


def _claimed(transaction: Transaction, write: Arrive) -> tuple[str, bool]:
    """The account of all with the same value, and whether it was made just now."""
    identity, value = write.told.identity, write.told.account_value
    if (found := _claimed_account(transaction, identity, value)) is not None:
        return found, False
    transaction.run(CreateAccount(write.account))
    transaction.execute("INSERT INTO claimed_accounts VALUES (?, ?, ?)", (identity.issuer, value, write.account.id))
    return write.account.id, True


def _role_in(told: ToldOfUser, *, is_new: bool) -> Role:
    return told.role or ("owner" if is_new else "member")


def _obey(transaction: Transaction, write: Arrive, known: KnownIdentity) -> None:
    """Have a user be in the account, and be what, the issuer says. It is not asked whether others are left."""
    told, person = write.told, known.standing.person
    obeyed = "UPDATE identities SET obeyed_at_ms = ? WHERE issuer = ? AND subject = ?"
    transaction.execute(obeyed, (told.issued_at_ms, *told.identity))
    if known.was_made and told.account_value is not None:
        account_id, is_new = _claimed(transaction, write)
        if account_id != person.account_id:
            moved = "UPDATE memberships SET account_id = ?, role = ? WHERE user_id = ?"
            transaction.execute(moved, (account_id, _role_in(told, is_new=is_new), person.id))
            end_made_secrets(transaction, person.id)
            note_change(transaction, person.id)
    if told.role not in (None, person.role) or told.is_administrator not in (None, person.is_administrator):
        transaction.run(ChangePerson(person.id, told.role, told.is_administrator, even_last=True))


def _forget(transaction: Transaction, write: ForgetIdentities) -> None:
    transaction.execute("DELETE FROM ended_identities WHERE at_ms < ?", (write.at_ms - _REMEMBERED_MS,))
    for row in transaction.all("SELECT issuer, subject FROM identities WHERE user_id = ?", (write.user_id,)):
        transaction.execute(_NOTE_ENDED, (Identity(*row).digest, write.at_ms))
    transaction.execute("DELETE FROM identities WHERE user_id = ?", (write.user_id,))


def _user_of(rows: Rows, read: UserOfIdentity) -> KnownIdentity | None:
    sql = "SELECT user_id, was_made, obeyed_at_ms FROM identities WHERE issuer = ? AND subject = ?"
    row = rows.first(sql, tuple(read.identity))
    if row is None:
        return None
    standing = _standing(rows, StandingOf(row[0]))
    assert standing is not None
    return KnownIdentity(standing, bool(row[1]), row[2], _claimed_account(rows, read.identity, read.account_value))


def _claimed_account(rows: Rows, identity: Identity, value: str | None) -> str | None:
    sql = "SELECT account_id FROM claimed_accounts WHERE issuer = ? AND value = ?"
    row = rows.first(sql, (identity.issuer, value))
    return None if row is None else str(row[0])


def _standing(rows: Rows, read: StandingOf) -> UserStanding | None:
    found = person_by_id(rows, PersonById(read.user_id))
    if found is None:
        return None
    ((is_active,),) = rows.all("SELECT is_active FROM accounts WHERE id = ?", (found.person.account_id,))
    return UserStanding(found.person, bool(is_active))


EXECUTORS = Executors(
    alone={Arrive: _arrive, ForgetIdentities: _forget},
    reads={UserOfIdentity: _user_of, StandingOf: _standing},
)
