"""Users, their sessions, the secrets that let somebody in once, and what signs tokens."""

from collections.abc import Sequence

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.access_tokens import AllSigningKeys, MakeSigningKey, SigningKey, SigningKeyMade
from mcp_gateway.core.identity.accounts import CreateAccount
from mcp_gateway.core.identity.key_ring import EndKeys
from mcp_gateway.core.identity.keys import unknown_account
from mcp_gateway.core.identity.oidc.identities import ForgetIdentities
from mcp_gateway.core.identity.people import (
    AllPeople,
    ChangePerson,
    CreatePerson,
    Credentials,
    DeletePerson,
    HasAccounts,
    KeepSecret,
    NewPerson,
    NoteMadeBy,
    OneTimeSecret,
    PeoplePage,
    Person,
    PersonByEmail,
    PersonById,
    RenewHash,
    SecretEmail,
    SetPassword,
    SetPasswordBySecret,
    SetPersonActive,
    SetPersonZone,
    email_taken,
    guests_alone,
    last_administrator,
    last_owner,
    may_let_nobody_in,
    registration_closed,
    too_many_invitations,
    unknown_user,
    useless_secret,
    wrong_credentials,
)
from mcp_gateway.core.identity.sessions import (
    EndSession,
    EndSessions,
    NoteSeen,
    OpenSession,
    SessionByCookie,
    SessionById,
    SessionsOf,
    UserSession,
    session_refusal,
)
from mcp_gateway.core.payments.auto_topups import RemoveAutoTopUp
from mcp_gateway.core.store.sql import ALL_ROWS
from mcp_gateway.core.store.sql.accounts import note_change
from mcp_gateway.core.store.sql.auto_topups import forget_payer
from mcp_gateway.core.store.transaction import Executors, Row, Rows, Transaction
from mcp_gateway.core.webhooks.outbox import RemoveWebhook

_PERSON = (
    "SELECT id, email, account_id, role, is_administrator, is_active, password_hash IS NOT NULL, created_at_ms, "
    "EXISTS (SELECT 1 FROM identities WHERE identities.user_id = users.id), zone, password_hash "
    "FROM users JOIN memberships ON memberships.user_id = users.id "
)
_SESSION = (
    "SELECT user_sessions.id, user_sessions.user_id, account_id, role, is_administrator, user_sessions.created_at_ms, "
    "seen_at_ms, expires_at_ms, agent, network, signed_in_by, accounts.is_active FROM user_sessions "
    "JOIN users ON users.id = user_sessions.user_id AND users.is_active "
    "JOIN memberships ON memberships.user_id = users.id JOIN accounts ON accounts.id = account_id "
)
_KEPT = (
    "SELECT sha256, purpose, expires_at_ms, user_id, email, account_id, role, is_administrator FROM one_time_secrets "
    "WHERE sha256 = ? AND expires_at_ms > ? "
)
_HAS_ACCOUNTS = "SELECT 1 FROM accounts WHERE id <> ? LIMIT 1"
_HAS_USERS = "SELECT 1 FROM users LIMIT 1"
_OLDEST_SESSIONS = (
    "DELETE FROM user_sessions WHERE id IN "
    f"(SELECT id FROM user_sessions WHERE user_id = ? ORDER BY seen_at_ms DESC, id DESC LIMIT {ALL_ROWS} OFFSET ?)"
)
_ENDING_KEYS = """
WITH RECURSIVE ending (one) AS (
    SELECT key_id FROM keys_of_users WHERE user_id = ?
    UNION SELECT id FROM keys WHERE account_id = ?
    UNION SELECT key_id FROM ending JOIN key_rights ON made_by = one
)
SELECT one FROM ending JOIN keys ON keys.id = one WHERE revoked_at_ms IS NULL
"""
"""What a user has made, or an account has, and what that made, whether its maker has ended or not."""
_FORGET_NAME = """
UPDATE accounts SET name = '' WHERE id = (SELECT account_id FROM memberships WHERE user_id = ?1)
AND name IN (SELECT email FROM users WHERE id = ?1 UNION SELECT subject FROM identities WHERE user_id = ?1)
"""
_OTHERS_ROLES = (
    "SELECT role FROM memberships JOIN users ON id = user_id WHERE account_id = ? AND user_id <> ? AND is_active"
)
_OTHER_ADMINISTRATORS = "SELECT 1 FROM users WHERE is_administrator AND is_active AND id <> ? LIMIT 1"
_MOST_INVITATIONS = 100
"""Open ones to an account."""
_ALL = 1_000_000
"""Keys that end in the transaction that deletes their maker."""


# Users


def _create(transaction: Transaction, write: CreatePerson) -> Person:
    """Whatever is wrong is found before anything is changed."""
    new = write.new
    secret = None if new.secret_sha256 is None else _inviting(transaction, new)
    if transaction.first("SELECT 1 FROM users WHERE email = ?", (new.email,)):
        raise email_taken()
    account = new.account if secret is None else secret.account_id or new.account
    if isinstance(account, str):
        _check_account(transaction, account)
    if new.only_first and transaction.first(_HAS_ACCOUNTS, (GUEST_ACCOUNT_ID,)):
        raise registration_closed()
    transaction.execute("DELETE FROM one_time_secrets WHERE sha256 = ?", (new.secret_sha256,))
    account_id = account if isinstance(account, str) else _make_account(transaction, new, is_invited=bool(secret))
    role, is_administrator = new.role, new.is_administrator
    if secret is not None:
        role, is_administrator = secret.role, secret.is_administrator
    row = (new.id, new.email, new.password_hash, is_administrator, True, new.created_at_ms)
    transaction.execute("INSERT INTO users VALUES (?, ?, ?, ?, ?, ?, NULL)", row)
    transaction.execute("INSERT INTO memberships VALUES (?, ?, ?)", (new.id, account_id, role))
    transaction.execute("DELETE FROM one_time_secrets WHERE purpose = 'first_administrator'")
    return Person(
        new.id, new.email, account_id, role, bool(is_administrator), True, new.password_hash is not None,
        new.created_at_ms,
    )  # fmt: skip


def _inviting(rows: Rows, new: NewPerson) -> OneTimeSecret:
    """The secret by which somebody registers. Raises GatewayError `invalid_value`."""
    row = rows.first(f"{_KEPT} AND purpose <> 'password'", (new.secret_sha256, new.created_at_ms))
    if row is None:
        raise useless_secret()
    secret = OneTimeSecret(*row)
    is_late = secret.purpose == "first_administrator" and rows.first(_HAS_USERS) is not None
    if is_late or secret.email not in (None, new.email):
        raise useless_secret()
    return secret


def _make_account(transaction: Transaction, new: NewPerson, *, is_invited: bool) -> str:
    assert not isinstance(new.account, str)
    transaction.run(CreateAccount(new.account))
    transaction.execute("INSERT INTO accounts_of_users VALUES (?)", (new.account.id,))
    if new.registered_from is not None and not is_invited:
        transaction.execute("INSERT INTO sharing_accounts VALUES (?, ?)", (new.account.id, new.registered_from))
    return new.account.id


def _set_password(transaction: Transaction, write: SetPassword) -> None:
    transaction.execute("UPDATE users SET password_hash = ? WHERE id = ?", (write.password_hash, write.user_id))
    transaction.execute("DELETE FROM one_time_secrets WHERE user_id = ?", (write.user_id,))
    _end_sessions(transaction, EndSessions(write.user_id, write.but_session_id))


def _set_password_by_secret(transaction: Transaction, write: SetPasswordBySecret) -> None:
    row = transaction.first(f"{_KEPT} AND purpose = 'password'", (write.secret_sha256, write.now_ms))
    if row is None:
        raise useless_secret()
    _set_password(transaction, SetPassword(OneTimeSecret(*row).user_id or "", write.password_hash))


def _renew_hash(transaction: Transaction, write: RenewHash) -> None:
    sql = "UPDATE users SET password_hash = ? WHERE id = ? AND password_hash = ?"
    transaction.execute(sql, (write.after, write.user_id, write.before))


def _set_active(transaction: Transaction, write: SetPersonActive) -> None:
    if not (write.is_active or write.even_last):
        _check_others_there(transaction, write.user_id)
    transaction.execute("UPDATE users SET is_active = ? WHERE id = ?", (write.is_active, write.user_id))
    if not write.is_active:
        end_made_secrets(transaction, write.user_id)
        _end_sessions(transaction, EndSessions(write.user_id, None))


def _change(transaction: Transaction, write: ChangePerson) -> None:
    found = person_by_id(transaction, PersonById(write.user_id))
    if found is None:
        raise unknown_user(write.user_id)
    was, user_id = found.person, write.user_id
    role = was.role if write.role is None else write.role
    is_administrator = was.is_administrator if write.is_administrator is None else write.is_administrator
    if not write.even_last and was.is_active:
        if was.role == "owner" != role:
            _check_owned_by_others(transaction, was, is_staying=True)
        if was.is_administrator and not is_administrator:
            _check_run_by_others(transaction, was)
    transaction.execute("UPDATE memberships SET role = ? WHERE user_id = ?", (role, user_id))
    transaction.execute("UPDATE users SET is_administrator = ? WHERE id = ?", (is_administrator, user_id))
    if (was.role == "owner" != role) or (was.is_administrator and not is_administrator):
        end_made_secrets(transaction, user_id)
    note_change(transaction, user_id)


def _set_zone(transaction: Transaction, write: SetPersonZone) -> None:
    transaction.execute("UPDATE users SET zone = ? WHERE id = ?", (write.zone, write.user_id))


def _check_others_there(rows: Rows, user_id: str) -> None:
    """Raises GatewayError `conflict` where an account that others are in, or the gateway, would be left to nobody."""
    found = person_by_id(rows, PersonById(user_id))
    if found is None or not found.person.is_active:
        return
    _check_owned_by_others(rows, found.person)
    _check_run_by_others(rows, found.person)


def _check_owned_by_others(rows: Rows, person: Person, *, is_staying: bool = False) -> None:
    """Of an account in which nobody is left, nobody need be an owner."""
    if person.role != "owner":
        return
    others = [role for (role,) in rows.all(_OTHERS_ROLES, (person.account_id, person.id))]
    if (others or is_staying) and "owner" not in others:
        raise last_owner()


def _check_run_by_others(rows: Rows, person: Person) -> None:
    if person.is_administrator and not rows.first(_OTHER_ADMINISTRATORS, (person.id,)):
        raise last_administrator()


def _delete(transaction: Transaction, write: DeletePerson) -> bool:
    user_id = write.user_id
    if not write.even_last:
        _check_others_there(transaction, user_id)
    account_id = _left_behind(transaction, user_id)
    if key_ids := tuple(key_id for (key_id,) in transaction.all(_ENDING_KEYS, (user_id, account_id))):
        transaction.run(EndKeys(key_ids, write.at_ms, _ALL))
    _end_sessions(transaction, EndSessions(user_id, None))
    end_made_secrets(transaction, user_id)
    transaction.execute(_FORGET_NAME, (user_id,))
    transaction.run(ForgetIdentities(user_id, write.at_ms))
    for table in ("one_time_secrets", "memberships"):
        transaction.execute(f"DELETE FROM {table} WHERE user_id = ?", (user_id,))
    transaction.execute("DELETE FROM one_time_secrets WHERE email = (SELECT email FROM users WHERE id = ?)", (user_id,))
    transaction.execute("DELETE FROM users WHERE id = ?", (user_id,))
    if account_id is not None:
        _forget_account(transaction, account_id)
    return forget_payer(transaction, user_id)


def end_made_secrets(transaction: Transaction, user_id: str) -> None:
    """Those by which others were to be let in: whoever made them may not do so any more."""
    transaction.execute("DELETE FROM one_time_secrets WHERE made_by = ?", (user_id,))


def _forget_account(transaction: Transaction, account_id: str) -> None:
    """Of an account that nobody is left in, and that nobody is to come into."""
    transaction.execute("UPDATE accounts SET name = '' WHERE id = ?", (account_id,))
    for table in ("one_time_secrets", "sharing_accounts", "low_balances", "saved_payment_methods"):
        transaction.execute(f"DELETE FROM {table} WHERE account_id = ?", (account_id,))
    transaction.run(RemoveAutoTopUp(account_id))
    transaction.run(RemoveWebhook(account_id))


def _left_behind(rows: Rows, user_id: str) -> str | None:
    """The account that was made for its first user and has none after this one."""
    sql = (
        "SELECT account_id FROM memberships AS own JOIN accounts_of_users USING (account_id) WHERE user_id = ? AND NOT "
        "EXISTS (SELECT 1 FROM memberships AS other WHERE other.account_id = own.account_id "
        "AND other.user_id <> own.user_id)"
    )
    row = rows.first(sql, (user_id,))
    return None if row is None else str(row[0])


def _note_made_by(transaction: Transaction, write: NoteMadeBy) -> None:
    _check_may_sign_in(transaction, write.user_id)
    transaction.execute("INSERT INTO keys_of_users VALUES (?, ?)", (write.key_id, write.user_id))


def person_by_id(rows: Rows, read: PersonById) -> Credentials | None:
    return _credentials(rows.first(f"{_PERSON} WHERE id = ?", (read.user_id,)))


def _by_email(rows: Rows, read: PersonByEmail) -> Credentials | None:
    return _credentials(rows.first(f"{_PERSON} WHERE email = ?", (read.email,)))


def _people(rows: Rows, read: AllPeople) -> list[Person]:
    one = "" if read.account_id is None else "WHERE account_id = ?"
    asked = () if read.account_id is None else (read.account_id,)
    return [_person(row) for row in rows.all(f"{_PERSON} {one} ORDER BY created_at_ms, id", asked)]


def _page(rows: Rows, read: PeoplePage) -> Sequence[Person]:
    asked = {"id < ?": read.before_id, "account_id = ?": read.account_id, "email = ?": read.email}
    given = {condition: value for condition, value in asked.items() if value is not None}
    sql = f"{_PERSON} WHERE {' AND '.join(('TRUE', *given))} ORDER BY id DESC LIMIT ?"
    return [_person(row) for row in rows.all(sql, (*given.values(), read.limit))]


def _credentials(row: Row | None) -> Credentials | None:
    return None if row is None else Credentials(_person(row), row[-1])


def _person(row: Row) -> Person:
    user_id, email, account_id, role, is_administrator, is_active, has_password, created_at_ms, comes, zone, _ = row
    return Person(
        user_id, email, account_id, role, bool(is_administrator), bool(is_active), bool(has_password), created_at_ms,
        bool(comes), zone,
    )  # fmt: skip


def _check_account(transaction: Transaction, account_id: str) -> None:
    """Whether somebody may come into it. Raises GatewayError `not_found`, or `conflict` for the guests'."""
    if account_id == GUEST_ACCOUNT_ID:
        raise guests_alone()
    if not transaction.first("SELECT 1 FROM accounts WHERE id = ?", (account_id,)):
        raise unknown_account(account_id)


def _has_accounts(rows: Rows, _: HasAccounts) -> bool:
    return rows.first(_HAS_ACCOUNTS, (GUEST_ACCOUNT_ID,)) is not None


# Secrets that let somebody in once


def _keep(transaction: Transaction, write: KeepSecret) -> bool:
    secret = write.secret
    if secret.purpose == "first_administrator" and transaction.first(_HAS_USERS) is not None:
        return False
    if secret.made_by is not None:
        _check_may_let_in(transaction, secret.made_by)
    if secret.user_id is not None and person_by_id(transaction, PersonById(secret.user_id)) is None:
        raise GatewayError("not_found", "There is no such user.")
    if secret.account_id is not None:
        _check_account(transaction, secret.account_id)
    open_ones = "SELECT COUNT(*) FROM one_time_secrets WHERE account_id = ? AND expires_at_ms > ?"
    ((count,),) = transaction.all(open_ones, (secret.account_id, write.now_ms))
    if count >= _MOST_INVITATIONS:
        raise too_many_invitations(_MOST_INVITATIONS)
    if secret.email and transaction.first("SELECT 1 FROM users WHERE email = ?", (secret.email,)):
        raise email_taken()
    transaction.execute(
        "DELETE FROM one_time_secrets WHERE expires_at_ms <= ? OR (purpose = ? AND (purpose = 'first_administrator' OR "
        "user_id = ? OR (email = ? AND account_id IS ? AND (made_by IS NULL) = ?)))",
        (
            write.now_ms,
            secret.purpose,
            secret.user_id,
            secret.email,
            secret.account_id,
            secret.made_by is None,
        ),
    )
    row = (
        secret.sha256, secret.purpose, secret.expires_at_ms, secret.user_id, secret.email, secret.account_id,
        secret.role, secret.is_administrator, secret.made_by,
    )  # fmt: skip
    transaction.execute("INSERT INTO one_time_secrets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    return True


def _check_may_sign_in(rows: Rows, user_id: str) -> None:
    """Raises GatewayError `expired_session` for a user who was switched off, or went, since they were let in."""
    if not rows.first("SELECT 1 FROM users WHERE id = ? AND is_active", (user_id,)):
        raise session_refusal("expired_session")


def _check_may_let_in(rows: Rows, user_id: str) -> None:
    """The same, and GatewayError `insufficient_permissions` for one who owns, or runs the gateway, no longer."""
    _check_may_sign_in(rows, user_id)
    lets_in = (
        "SELECT 1 FROM users JOIN memberships ON user_id = id WHERE id = ? AND (role = 'owner' OR is_administrator)"
    )
    if not rows.first(lets_in, (user_id,)):
        raise may_let_nobody_in()


def _email_of_secret(rows: Rows, read: SecretEmail) -> str | None:
    row = rows.first(_KEPT, (read.sha256, read.now_ms))
    if row is None:
        return None
    secret = OneTimeSecret(*row)
    found = None if secret.user_id is None else person_by_id(rows, PersonById(secret.user_id))
    return secret.email or "" if found is None else found.person.email


# Sessions


def _open_session(transaction: Transaction, write: OpenSession) -> None:
    one = write.session
    row = (
        one.id, one.user_id, write.cookie_sha256, one.created_at_ms, one.seen_at_ms, one.expires_at_ms, one.agent,
        one.network, one.signed_in_by,
    )  # fmt: skip
    values = "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    is_still = "SELECT 1 FROM users WHERE id = ? AND is_active AND (CAST(? AS TEXT) IS NULL OR password_hash = ?)"
    if not transaction.first(is_still, (one.user_id, write.password_hash, write.password_hash)):
        raise wrong_credentials()  # switched off, deleted or given another password since the password was compared
    transaction.execute(f"INSERT INTO user_sessions {values}", row)
    dead = "DELETE FROM user_sessions WHERE user_id = ? AND expires_at_ms <= ?"
    transaction.execute(dead, (one.user_id, one.created_at_ms))
    if transaction.execute(_OLDEST_SESSIONS, (one.user_id, write.most)):
        note_change(transaction, one.user_id)


def _end_session(transaction: Transaction, write: EndSession) -> bool:
    sql = "DELETE FROM user_sessions WHERE user_id = ? AND id = ?"
    ended = transaction.execute(sql, (write.user_id, write.session_id))
    if ended:  # else the id is a caller's text, or somebody else's
        note_change(transaction, write.session_id)
    return bool(ended)


def _end_sessions(transaction: Transaction, write: EndSessions) -> int:
    sql = "DELETE FROM user_sessions WHERE user_id = ? AND id <> ?"
    ended = transaction.execute(sql, (write.user_id, write.but_session_id or ""))
    note_change(transaction, write.user_id)
    return ended


def _note_seen(transaction: Transaction, write: NoteSeen) -> None:
    sql = "UPDATE user_sessions SET seen_at_ms = MAX(seen_at_ms, ?) WHERE id = ?"
    transaction.execute(sql, (write.at_ms, write.session_id))


def _session_by_id(rows: Rows, read: SessionById) -> UserSession | None:
    return _session(rows.first(f"{_SESSION} WHERE user_sessions.id = ?", (read.session_id,)))


def _session_by_cookie(rows: Rows, read: SessionByCookie) -> UserSession | None:
    return _session(rows.first(f"{_SESSION} WHERE cookie_sha256 = ?", (read.cookie_sha256,)))


def _sessions(rows: Rows, read: SessionsOf) -> list[UserSession]:
    found = rows.all(f"{_SESSION} WHERE user_sessions.user_id = ? ORDER BY seen_at_ms DESC", (read.user_id,))
    return [session for row in found if (session := _session(row)) is not None]


def _session(row: Row | None) -> UserSession | None:
    if row is None:
        return None
    (
        session_id, user_id, account_id, role, is_administrator, made_ms, seen_ms, ends_ms, agent, network, way,
        is_active,
    ) = row  # fmt: skip
    return UserSession(
        session_id, user_id, account_id, role, bool(is_administrator), made_ms, seen_ms, ends_ms, agent, network,
        way, bool(is_active),
    )  # fmt: skip


# What signs tokens


def _make_signing_key(transaction: Transaction, write: MakeSigningKey) -> None:
    key = write.key
    transaction.execute("DELETE FROM signing_keys WHERE retired_at_ms < ?", (write.forgotten_before_ms,))
    if not transaction.first("SELECT 1 FROM signing_keys WHERE active_from_ms >= ?", (key.active_from_ms,)):
        row = (key.id, key.secret, key.active_from_ms, key.retired_at_ms)
        transaction.execute("INSERT INTO signing_keys VALUES (?, ?, ?, ?)", row)
        transaction.announce(SigningKeyMade())


def _signing_keys(rows: Rows, _: AllSigningKeys) -> list[SigningKey]:
    sql = "SELECT id, secret, active_from_ms, retired_at_ms FROM signing_keys ORDER BY active_from_ms"
    return [SigningKey(*row) for row in rows.all(sql)]


EXECUTORS = Executors(
    alone={
        CreatePerson: _create,
        SetPassword: _set_password,
        SetPasswordBySecret: _set_password_by_secret,
        RenewHash: _renew_hash,
        SetPersonActive: _set_active,
        SetPersonZone: _set_zone,
        ChangePerson: _change,
        DeletePerson: _delete,
        NoteMadeBy: _note_made_by,
        KeepSecret: _keep,
        OpenSession: _open_session,
        EndSession: _end_session,
        EndSessions: _end_sessions,
        NoteSeen: _note_seen,
        MakeSigningKey: _make_signing_key,
    },
    reads={
        PersonById: person_by_id,
        PersonByEmail: _by_email,
        AllPeople: _people,
        PeoplePage: _page,
        HasAccounts: _has_accounts,
        SecretEmail: _email_of_secret,
        SessionById: _session_by_id,
        SessionByCookie: _session_by_cookie,
        SessionsOf: _sessions,
        AllSigningKeys: _signing_keys,
    },
)
