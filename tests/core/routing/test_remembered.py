"""What routing remembers is bounded: who served a conversation, and how long answers are."""

import pytest

from mcp_gateway.core.routing.conversations import Conversations, Remembered
from mcp_gateway.core.routing.lengths import USUAL_OUTPUT_TOKENS, AnswerLengths


def served(number: int) -> Remembered:
    return Remembered(f"model-{number}", "code")


def test_a_conversation_is_remembered_with_who_served_it_last() -> None:
    conversations = Conversations()
    assert conversations.served_before(b"1") is None
    conversations.note(b"1", served(1))
    conversations.note(b"1", served(2))
    assert (conversations.served_before(b"1"), len(conversations)) == (served(2), 1)


def test_the_conversation_that_was_served_longest_ago_is_forgotten_first() -> None:
    conversations = Conversations(most=3)
    for number in (1, 2, 3, 1, 4):
        conversations.note(b"%d" % number, served(number))
    there = [number for number in (1, 2, 3, 4) if conversations.served_before(b"%d" % number)]
    assert there == [1, 3, 4]


def test_twenty_answers_replace_most_of_what_was_assumed_of_their_length() -> None:
    lengths = AnswerLengths()
    assert lengths.averages == {}
    for _ in range(60):
        lengths.note("m", "code", 2000)
    lengths.note("m", "math", 0)
    assert lengths.averages["m", "code"] == pytest.approx(2000, rel=0.05)
    assert lengths.averages["m", "math"] == pytest.approx(USUAL_OUTPUT_TOKENS["math"], rel=0.06)
    assert ("other", "code") not in lengths.averages
