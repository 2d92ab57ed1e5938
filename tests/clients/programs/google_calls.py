"""Google's Python SDK: makes the calls that it is told, all at once, and prints what it saw of each."""

import asyncio
import json
import sys
from typing import Any

from google import genai
from google.genai import errors, types

PARAMETERS: Any = {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}
TOOL = types.Tool(function_declarations=[types.FunctionDeclaration(name="get_weather", parameters=PARAMETERS)])
Seen = dict[str, Any]


async def chat(client: genai.Client, told: Seen) -> Seen:
    return seen_of(await turn(client, told, [told["text"]]))


async def tools(client: genai.Client, told: Seen) -> Seen:
    """With a tool, whose result it is told."""
    config = types.GenerateContentConfig(tools=[TOOL], system_instruction="Be brief.")
    asked = types.Content(role="user", parts=[types.Part(text=told["text"])])
    (first,) = await turn(client, told, [asked], config)
    (part,) = first.candidates[0].content.parts
    result = types.Part.from_function_response(name=part.function_call.name, response={"result": "sunny"})
    answered = types.Content(role="user", parts=[result])
    seen = seen_of(await turn(client, told, [asked, first.candidates[0].content, answered], config))
    return seen | {"calls": [{"name": part.function_call.name, "arguments": json.dumps(part.function_call.args)}]}


async def count_tokens(client: genai.Client, told: Seen) -> Seen:
    counted = await client.aio.models.count_tokens(model=told["model"], contents=told["text"])
    return {"tokens": [counted.total_tokens, 0]}


async def turn(client: genai.Client, told: Seen, contents: Any, config: Any = None) -> list[Any]:
    """The chunks of an answer, or the one piece that it is."""
    asked: Any = {"model": told["model"], "contents": contents, "config": config}
    if not told["stream"]:
        return [await client.aio.models.generate_content(**asked)]
    return [chunk async for chunk in await client.aio.models.generate_content_stream(**asked)]


def seen_of(chunks: list[Any]) -> Seen:
    usage = chunks[-1].usage_metadata
    return {
        "text": "".join(chunk.text or "" for chunk in chunks),
        "tokens": [usage.prompt_token_count, usage.candidates_token_count],
    }


async def seen(told: Seen) -> Seen:
    """Of one call: what was answered, or which error the SDK has for it."""
    client = genai.Client(api_key=told["key"], http_options=types.HttpOptions(base_url=told["url"]))
    try:
        return await CALLS[told["call"]](client, told)
    except errors.APIError as error:
        return {"name": type(error).__name__, "status": error.code}


CALLS = {"chat": chat, "count_tokens": count_tokens, "tools": tools}


async def main() -> None:
    told = json.loads(sys.argv[1])
    print(json.dumps(await asyncio.gather(*map(seen, told))))


asyncio.run(main())
