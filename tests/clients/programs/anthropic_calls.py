"""Anthropic's Python SDK: makes the calls that it is told, all at once, and prints what it saw of each."""

import asyncio
import json
import sys
from typing import Any

import anthropic

TOOL: Any = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
Seen = dict[str, Any]


async def messages(client: anthropic.AsyncAnthropic, told: Seen) -> Seen:
    images = list(map(image_at, told["images"]))
    turns: list[Any] = [{"role": "user", "content": [{"type": "text", "text": told["text"]}, *images]}]
    first = await turn(client, told, turns)
    if isinstance(first, dict):
        return first
    if first.stop_reason != "tool_use":
        return seen_of(first)
    uses = [block for block in first.content if block.type == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"} for use in uses]
    turns += [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    calls = [{"name": use.name, "arguments": json.dumps(use.input)} for use in uses]
    return seen_of(await turn(client, told, turns)) | {"calls": calls}


def image_at(url: str) -> Seen:
    media_type, _, data = url.removeprefix("data:").partition(";base64,")
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


async def turn(client: anthropic.AsyncAnthropic, told: Seen, turns: list[Any]) -> Any:
    asked: Any = {"model": told["model"], "max_tokens": 200, "messages": turns, "tools": [TOOL], "system": "Be brief."}
    if not told["stream"]:
        return await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        async for event in stream:
            if told["leaves"] and event.type == "text":
                return {"left": True}
        return await stream.get_final_message()


def seen_of(message: Any) -> Seen:
    return {
        "text": "".join(block.text for block in message.content if block.type == "text"),
        "thought": "".join(block.thinking for block in message.content if block.type == "thinking"),
        "calls": [],
        "is_cut": message.stop_reason == "max_tokens",
        "tokens": [message.usage.input_tokens, message.usage.output_tokens],
    }


async def beta(client: anthropic.AsyncAnthropic, told: Seen) -> Seen:
    """As programs ask that want what is not settled: with a query and a header more."""
    turns: Any = [{"role": "user", "content": told["text"]}]
    betas: Any = ["context-management-2025-06-27"]
    return seen_of(await client.beta.messages.create(model=told["model"], max_tokens=200, messages=turns, betas=betas))


async def count_tokens(client: anthropic.AsyncAnthropic, told: Seen) -> Seen:
    turns: Any = [{"role": "user", "content": told["text"]}]
    counted = await client.messages.count_tokens(model=told["model"], messages=turns, tools=[TOOL])
    return {"tokens": [counted.input_tokens, 0]}


async def models(client: anthropic.AsyncAnthropic, told: Seen) -> Seen:
    return {"models": [model.id async for model in client.models.list()]}


async def seen(told: Seen) -> Seen:
    """Of one call: what was answered, or which error the SDK has for it."""
    client = anthropic.AsyncAnthropic(base_url=told["url"], api_key=told["key"], max_retries=told["retries"])
    try:
        return await CALLS[told["call"]](client, told)
    except anthropic.APIStatusError as error:
        kind = error.body["error"]["type"] if isinstance(error.body, dict) else None
        return {"name": type(error).__name__, "status": error.status_code, "code": kind, "id": error.request_id}


CALLS = {"beta": beta, "count_tokens": count_tokens, "messages": messages, "models": models}


async def main() -> None:
    told = json.loads(sys.argv[1])
    print(json.dumps(await asyncio.gather(*map(seen, told))))


asyncio.run(main())
