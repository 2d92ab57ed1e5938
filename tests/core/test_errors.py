import re
from http import HTTPStatus
from typing import cast, get_args

import pytest

from mcp_gateway.core.errors import TABLE, Code, GatewayError, Row, internal_error
from tests.cases import each

CLIENT_CLOSED_REQUEST = 499  # nginx's number, unknown to http.HTTPStatus
STATUS_OF_TYPE = {
    "invalid_auth": {401},
    "insufficient_balance": {402, 429},
    "rate_limited": {429},
    "internal_error": {500},
    "not_configured": {501},
    "backend_unavailable": {502},
}
rows = each(("code", "row"), TABLE.items())


def test_the_table_has_a_row_for_every_code_and_no_other() -> None:
    assert TABLE.keys() == set(get_args(Code))


@rows
def test_every_code_is_a_word_of_its_own_with_an_error_status(code: Code, row: Row) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", row.type)
    assert row.status == CLIENT_CLOSED_REQUEST or HTTPStatus(row.status).value >= 400


@rows
def test_every_row_advises_in_a_whole_sentence(code: Code, row: Row) -> None:
    assert re.fullmatch(r"[A-Z].*\.", row.advice)


@rows
def test_waiting_is_advised_only_with_a_time_and_never_where_it_cannot_help(code: Code, row: Row) -> None:
    assert row.retry_after_s is None or (row.retry_after_s > 0 and row.status in (429, 503))
    assert "retry_after_s" not in row.advice or row.retry_after_s is not None


@rows
def test_a_type_always_comes_with_its_status(code: Code, row: Row) -> None:
    assert row.status in STATUS_OF_TYPE.get(row.type, {row.status})


@rows
def test_every_code_renders_as_an_openai_error_object(code: Code, row: Row) -> None:
    error = GatewayError(code, "Say what.", param="model")
    assert error.as_object() == {"message": "Say what.", "type": row.type, "code": code, "param": "model"}
    assert (error.status, error.row, error.retry_after_s) == (row.status, row, row.retry_after_s)


def test_an_error_without_a_parameter_still_has_the_field() -> None:
    assert GatewayError("conflict", "m").as_object()["param"] is None


def test_details_stand_beside_the_four_fields() -> None:
    error = GatewayError("insufficient_balance", "m", details={"balance_usd": "0.00"})
    assert error.as_object() == {
        "message": "m",
        "type": "insufficient_balance",
        "code": "insufficient_balance",
        "param": None,
        "balance_usd": "0.00",
    }


def test_a_given_time_to_wait_wins_over_the_tables_even_when_it_is_zero() -> None:
    assert GatewayError("in_flight", "m", retry_after_s=7).retry_after_s == 7
    assert GatewayError("in_flight", "m", retry_after_s=0).retry_after_s == 0


def test_the_message_is_not_in_what_logging_the_exception_would_show() -> None:
    error = GatewayError("invalid_value", "canary", details={"given": "canary"})
    assert "canary" not in f"{error} {error!r}"


def test_a_code_outside_the_table_is_a_bug() -> None:
    with pytest.raises(KeyError):
        GatewayError(cast("Code", "no_such_code"), "m")


def test_a_bug_shows_a_caller_nothing_but_the_request_id() -> None:
    error = internal_error("req_1")
    assert (error.status, error.code) == (500, "internal_error")
    assert "req_1" in error.message
