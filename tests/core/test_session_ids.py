"""Ids of sessions that any replica serves, and how long they are good for."""

from mcp.server.connection import Connection

from mcp_gateway.mcp_door.places import Places
from mcp_gateway.mcp_door.session_ids import SessionIds
from mcp_gateway.mcp_door.sessions import Session, Sessions
from mcp_gateway.mcp_door.shares import Caps, Owner, Tally
from tests.serving import Clock

ALICE: Owner = ("acc_1", "key_1", "key_1")
BOB: Owner = ("acc_1", "key_2", "key_2")
CAPS = Caps(10, 10, 10)


def connection(capabilities: object = None) -> Connection:
    return Connection.from_envelope("2025-11-25", {"name": "test", "version": "1"}, capabilities or {})


def test_an_id_tells_what_its_session_was_opened_with() -> None:
    clock = Clock()
    session_id = SessionIds(b"secret", "one", clock).make(ALICE, connection({"elicitation": {"url": {}}}))
    facts = SessionIds(b"secret", "other", clock).read(session_id, ALICE)
    assert facts is not None
    assert facts.opened_by == "one"
    again = facts.connection()
    assert again.initialize_accepted
    assert again.protocol_version == "2025-11-25"
    assert again.client_capabilities is not None
    assert again.client_capabilities.elicitation is not None
    assert again.client_capabilities.elicitation.url is not None
    assert again.client_params is not None
    assert again.client_params.client_info.name == "test"
    assert all(33 <= ord(sign) < 127 for sign in session_id)  # as headers may have them


def test_it_is_good_for_its_owner_and_its_time_and_by_its_secret_alone() -> None:
    clock = Clock()
    ids = SessionIds(b"secret", "one", clock, lifetime_s=60)
    session_id = ids.make(ALICE, connection())
    assert ids.make(ALICE, connection()) != session_id
    assert ids.read(session_id, BOB) is None
    assert SessionIds(b"another", "one", clock).read(session_id, ALICE) is None
    assert ids.lasts_s(session_id, ALICE) == 61
    clock.now_s += 59
    assert ids.read(session_id, ALICE) is not None
    clock.now_s += 1
    assert ids.read(session_id, ALICE) is None
    assert ids.lasts_s(session_id, ALICE) == 0


def test_what_has_not_the_form_of_one_is_none() -> None:
    ids = SessionIds(b"secret", "one", Clock())
    for spoiled in ("", "mcp_", "mcp_é", "mcp_A", "key_AAAA", "mcp_" + 3000 * "A", "mcp_****"):
        assert ids.read(spoiled, ALICE) is None


def test_a_session_is_over_when_its_id_is() -> None:
    clock = Clock(0)
    sessions = Sessions(CAPS, idle_timeout_s=1000, monotonic_s=clock)
    session = Session("s", ALICE, connection(), Places(Tally(CAPS)), ends_at_s=60)
    sessions.add(session)
    clock.now_s = 59
    assert sessions.find("s", ALICE) is session
    clock.now_s = 60
    assert sessions.find("s", ALICE) is None
    assert session.is_ended
    assert sessions.named("s") is None
