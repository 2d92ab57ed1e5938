"""Granted credit by grant: which is drawn on first, what goes back to which, and what expires.

Runs inside the writer's transaction; amounts in nano-USD.
"""

import sqlite3


def take_expired(connection: sqlite3.Connection, account_id: str, now_ms: int) -> list[tuple[int, int]]:
    """Take what is left, and not held, of grants whose time is over; returns (grant, how much) of each."""
    sql = "SELECT id, remaining_nano FROM grants WHERE account_id = ? AND remaining_nano > 0 AND expires_at_ms <= ?"
    expired: list[tuple[int, int]] = connection.execute(sql, (account_id, now_ms)).fetchall()
    for grant_id, _ in expired:
        connection.execute("UPDATE grants SET remaining_nano = 0 WHERE id = ?", (grant_id,))
    return expired


def take(connection: sqlite3.Connection, account_id: str, amount_nano: int) -> list[tuple[int, int]]:
    """Take `amount_nano` from the account's grants, the first to expire first; returns (grant, how much) of each."""
    sql = (
        "SELECT id, remaining_nano FROM grants WHERE account_id = ? AND remaining_nano > 0 "
        "ORDER BY expires_at_ms IS NULL, expires_at_ms, id"
    )
    taken: list[tuple[int, int]] = []
    for grant_id, remaining_nano in connection.execute(sql, (account_id,)).fetchall():
        part_nano = min(remaining_nano, amount_nano)
        connection.execute("UPDATE grants SET remaining_nano = remaining_nano - ? WHERE id = ?", (part_nano, grant_id))
        taken.append((grant_id, part_nano))
        amount_nano -= part_nano
        if not amount_nano:
            return taken
    raise AssertionError("grants hold less than the wallet says")


def draw(connection: sqlite3.Connection, request_id: str, account_id: str, amount_nano: int) -> None:
    """Take `amount_nano` for a request's hold, and note how much from which grant."""
    for grant_id, part_nano in take(connection, account_id, amount_nano):
        connection.execute("INSERT INTO hold_grants VALUES (?, ?, ?)", (request_id, grant_id, part_nano))


def give_back(connection: sqlite3.Connection, request_id: str, amount_nano: int) -> None:
    """Return what a hold did not need to the grants it drew on, the last to expire first; forget its draws."""
    sql = (
        "SELECT grant_id, amount_nano FROM hold_grants JOIN grants ON id = grant_id WHERE request_id = ? "
        "ORDER BY expires_at_ms IS NULL DESC, expires_at_ms DESC, grant_id DESC"
    )
    for grant_id, drawn_nano in connection.execute(sql, (request_id,)).fetchall():
        part_nano = min(drawn_nano, amount_nano)
        _add(connection, grant_id, part_nano)
        amount_nano -= part_nano
    connection.execute("DELETE FROM hold_grants WHERE request_id = ?", (request_id,))


def return_charged(connection: sqlite3.Connection, account_id: str, amount_nano: int, now_ms: int) -> None:
    """Return what was charged to grants once: which of them is forgotten by then, so to the first to expire that lives.

    Where none lives any more, to the last that expired, whose rest is taken back in its turn.
    """
    sql = (
        "SELECT id FROM grants WHERE account_id = ? "
        "ORDER BY IFNULL(expires_at_ms <= ?, 0), expires_at_ms IS NULL, expires_at_ms, id LIMIT 1"
    )
    (grant_id,) = connection.execute(sql, (account_id, now_ms)).fetchone()
    _add(connection, grant_id, amount_nano)


def _add(connection: sqlite3.Connection, grant_id: int, amount_nano: int) -> None:
    connection.execute("UPDATE grants SET remaining_nano = remaining_nano + ? WHERE id = ?", (amount_nano, grant_id))
