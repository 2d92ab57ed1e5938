"""The backend that clients are tried with: the model's name says what it answers, the path in which API's shape."""

from collections.abc import Callable
from typing import Any

import orjson

from tests.captured import captured
from tests.clients.shapes import PROMPT_TOKENS, SHAPES, Call, Said
from tests.replaying import Answer, Asked, events, replayed, whole

TEXT = "Hello from the script."
THOUGHT = "I think."
AFTER_TOOLS = "The tools have answered."
BEGINNING = "So far"
COMMANDS = ("echo one", "echo two")
TOOLS = {"get_weather": "city", "Bash": "command", "bash": "command", "exec_command": "cmd", "run_commands": "commands"}
"""Tools of the programs that are known here, with the argument that holds the command."""
OVERFLOWS = {
    "/v1/chat/completions": "152_prompt_too_long",
    "/v1/completions": "511_completion_too_long",
    "/v1/messages": "547_messages_too_long",
    "/v1/responses": "528_responses_too_long",
    "/v1/embeddings": "961_embed_too_long",
}
_RESULTS = (b'"tool_result"', b'"function_call_output"', b'"role":"tool"')


async def by_its_name(asked: Asked) -> None:
    """The answer that is named like the model."""
    await _SCRIPTS[asked.json["model"]](asked)


def _saying(say: Callable[[Asked], Said]) -> Answer:
    async def answer(asked: Asked) -> None:
        shape, said = SHAPES[asked.path], say(asked)
        is_stream = asked.json.get("stream")
        await (events(*shape.stream(said)) if is_stream else whole(orjson.dumps(shape.answer(said))))(asked)

    return answer


def _calls(asked: Asked) -> Said:
    """Two calls at once of the first tool that is known here, and text once they are answered."""
    if any(result in orjson.dumps(asked.json) for result in _RESULTS):
        return Said(AFTER_TOOLS)
    offered = [(tool.get("function") or tool).get("name") for tool in asked.json.get("tools", ())]
    name = next((name for name in TOOLS if name in offered), None)
    return Said(calls=tuple(_call(name, command) for command in COMMANDS)) if name else Said(f"Tools: {offered}")


def _call(tool: str, command: str) -> Call:
    described = {"description": "say it"} if tool.lower() == "bash" else {}
    given = [command] if tool == "run_commands" else command
    return tool, orjson.dumps({TOOLS[tool]: given} | described).decode()


def _sees(asked: Asked) -> Said:
    return Said(TEXT if b"image/png" in asked.body else "There is no image.")


async def _busy(asked: Asked) -> None:
    """As vLLM and what stands before it refuse while all places are taken."""
    body = b'{"error":{"message":"Too many requests are waiting.","type":"overloaded","code":503}}'
    head = b"HTTP/1.1 503 x\r\nretry-after: 1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    asked.send(head % (len(body), body))


async def _overflows(asked: Asked) -> None:
    await replayed(captured(OVERFLOWS[asked.path]))(asked)


async def _stays(asked: Asked) -> None:
    """The beginning of a stream and then nothing; of an answer in one piece nothing at all."""
    if asked.json.get("stream"):
        _begin(asked)
    await asked.is_gone.wait()


def _begin(asked: Asked) -> None:
    shape = SHAPES[asked.path]
    asked.start_stream()
    for event in shape.stream(Said(BEGINNING, goes_on=True))[: -shape.ending]:
        asked.send_event(event)


async def _dies(asked: Asked) -> None:
    """The beginning of a stream and then the end of the connection; of an answer in one piece only that."""
    if asked.json.get("stream"):
        _begin(asked)
    asked.transport.close()


async def _embeds(asked: Asked) -> None:
    given: Any = asked.json["input"]
    count = len(given) if isinstance(given, list) else 1
    rows = [{"index": index, "object": "embedding", "embedding": [0.5, -0.25]} for index in range(count)]
    usage = {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS, "completion_tokens": 0}
    told = {"id": "embd-1", "object": "list", "created": 1, "model": "embeds", "data": rows, "usage": usage}
    await whole(orjson.dumps(told))(asked)


_UNLOADED = b'{"error":{"message":"The model does not exist.","type":"NotFoundError","param":"model","code":404}}'
_SCRIPTS: dict[str, Answer] = {
    "says": _saying(lambda _: Said(TEXT)),
    "thinks": _saying(lambda _: Said(TEXT, thought=THOUGHT)),
    "sees": _saying(_sees),
    "cut": _saying(lambda _: Said(TEXT, is_cut=True)),
    "calls": _saying(_calls),
    "stays": _stays,
    "dies": _dies,
    "busy": _busy,
    "unloaded": whole(_UNLOADED, 404),
    "overflows": _overflows,
    "embeds": _embeds,
}
MODELS = tuple(_SCRIPTS)
