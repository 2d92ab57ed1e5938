"""OpenAI's Python SDK: makes the calls that it is told, all at once, and prints what it saw of each."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import openai

TOOL = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
Seen = dict[str, Any]


async def chat(client: openai.AsyncOpenAI, told: Seen) -> Seen:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in told["images"]]
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": told["text"]}, *images]}]
    tools: list[Any] = [{"type": "function", "function": TOOL}]
    first = await chat_turn(client, told, messages, tools)
    if not first.get("calls"):
        return first
    named = [{"name": call["name"], "arguments": call["arguments"]} for call in first["calls"]]
    calls = [
        {"id": call["id"], "type": "function", "function": function}
        for call, function in zip(first["calls"], named, strict=True)
    ]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in first["calls"]]
    turns = [*messages, {"role": "assistant", "content": None, "tool_calls": calls}, *results]
    return await chat_turn(client, told, turns, tools) | {"calls": named}


async def chat_turn(client: openai.AsyncOpenAI, told: Seen, messages: list[Any], tools: list[Any]) -> Seen:
    asked = {"model": told["model"], "messages": messages, "tools": tools, "max_completion_tokens": 200}
    if not told["stream"]:
        answer = await client.chat.completions.create(**asked)
        return seen_of_chat(answer)
    try:
        async with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
            async for event in stream:
                if told["leaves"] and event.type == "content.delta":
                    return {"left": True}
            return seen_of_chat(await stream.get_final_completion())
    except openai.LengthFinishReasonError as cut:
        return seen_of_chat(cut.completion)


def seen_of_chat(answer: Any) -> Seen:
    choice = answer.choices[0]
    calls = [
        {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        for call in choice.message.tool_calls or ()
    ]
    return {
        "text": choice.message.content,
        "thought": getattr(choice.message, "reasoning", None),
        "calls": calls,
        "is_cut": choice.finish_reason == "length",
        "tokens": [answer.usage.prompt_tokens, answer.usage.completion_tokens],
    }


async def responses(client: openai.AsyncOpenAI, told: Seen) -> Seen:
    images = [{"type": "input_image", "image_url": url, "detail": "auto"} for url in told["images"]]
    parts = [{"type": "input_text", "text": told["text"]}, *images]
    items: list[Any] = [{"role": "user", "content": parts}]
    first = await response_turn(client, told, items)
    if not first.get("calls"):
        return first
    calls = [{"type": "function_call", **call} for call in first["calls"]]
    results = [
        {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"} for call in first["calls"]
    ]
    named = [{"name": call["name"], "arguments": call["arguments"]} for call in first["calls"]]
    return await response_turn(client, told, [*items, *calls, *results]) | {"calls": named}


async def response_turn(client: openai.AsyncOpenAI, told: Seen, items: list[Any]) -> Seen:
    asked: Any = {"model": told["model"], "input": items, "tools": [{"type": "function", "strict": False, **TOOL}]}
    if not told["stream"]:
        return seen_of_response(await client.responses.create(**asked))
    async with client.responses.stream(**asked) as stream:
        async for event in stream:
            if told["leaves"] and event.type == "response.output_text.delta":
                return {"left": True}
            if event.type == "response.failed" and event.response.error is not None:
                return {"name": event.type, "code": event.response.error.code}
            if event.type in ("response.completed", "response.incomplete"):
                return seen_of_response(event.response)  # of the second the SDK's own helper makes an error
    raise AssertionError("it did not end")


def seen_of_response(answer: Any) -> Seen:
    items = [item for item in answer.output if item.type == "function_call"]
    texts = [part.text for item in answer.output if item.type == "message" for part in item.content]
    return {
        "text": "".join(texts),
        "thought": "".join(part.text for item in answer.output if item.type == "reasoning" for part in item.summary),
        "calls": [{"call_id": item.call_id, "name": item.name, "arguments": item.arguments} for item in items],
        "is_cut": answer.status == "incomplete",
        "tokens": [answer.usage.input_tokens, answer.usage.output_tokens],
        "store": answer.store,
    }


async def completions(client: openai.AsyncOpenAI, told: Seen) -> Seen:
    asked: Any = {"model": told["model"], "prompt": told["text"], "max_tokens": 200}
    if not told["stream"]:
        return seen_of_completion([await client.completions.create(**asked)])
    stream = await client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    async with stream:
        return seen_of_completion([chunk async for chunk in until_left(stream, told)])


async def until_left(stream: Any, told: Seen) -> AsyncIterator[Any]:
    async for chunk in stream:
        yield chunk
        if told["leaves"]:
            return


def seen_of_completion(chunks: list[Any]) -> Seen:
    choices = [choice for chunk in chunks for choice in chunk.choices]
    if (usage := chunks[-1].usage) is None:
        return {"left": True}
    return {
        "text": "".join(choice.text for choice in choices),
        "is_cut": choices[-1].finish_reason == "length",
        "tokens": [usage.prompt_tokens, usage.completion_tokens],
    }


async def embeddings(client: openai.AsyncOpenAI, told: Seen) -> Seen:
    answer = await client.embeddings.create(model=told["model"], input=["Hello", "Goodbye"])
    return {"vectors": [row.embedding for row in answer.data], "tokens": [answer.usage.prompt_tokens, 0]}


async def models(client: openai.AsyncOpenAI, told: Seen) -> Seen:
    return {"models": [model.id async for model in client.models.list()]}


async def seen(told: Seen) -> Seen:
    """Of one call: what was answered, or which error the SDK has for it."""
    client = openai.AsyncOpenAI(base_url=told["url"], api_key=told["key"], max_retries=told["retries"])
    try:
        return await CALLS[told["call"]](client, told)
    except openai.APIStatusError as error:
        return {"name": type(error).__name__, "status": error.status_code, "code": error.code, "id": error.request_id}
    except openai.APIError as error:  # within a stream
        return {"name": type(error).__name__, "code": error.code}


CALLS = {
    "chat": chat,
    "completions": completions,
    "embeddings": embeddings,
    "models": models,
    "responses": responses,
}


async def main() -> None:
    told = json.loads(sys.argv[1])
    print(json.dumps(await asyncio.gather(*map(seen, told))))


asyncio.run(main())
