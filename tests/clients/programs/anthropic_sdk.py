"""The Python anthropic SDK: a message, a stream, a tool's call and its result, a count, the models, three refusals."""

import json
import sys
from collections.abc import Callable
from typing import Any

import anthropic

told = json.loads(sys.argv[1])
client = anthropic.Anthropic(base_url=told["url"], api_key=told["key"], max_retries=0)
stranger = anthropic.Anthropic(base_url=told["url"], auth_token="gw_live_wrong", api_key=None, max_retries=0)
asked: dict[str, Any] = {"model": told["model"], "max_tokens": 200}
hello = {"role": "user", "content": "Hello"}
weather = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def refusal(call: Callable[[], object]) -> dict[str, Any]:
    try:
        call()
    except anthropic.APIStatusError as error:
        kind = error.body["error"]["type"] if isinstance(error.body, dict) else None
        return {"name": type(error).__name__, "status": error.status_code, "type": kind, "id": error.request_id}
    return {}


message = client.messages.create(messages=[hello], system="Be brief.", **asked)
with client.messages.stream(messages=[hello], **asked) as stream:
    text = "".join(stream.text_stream)
    streamed = stream.get_final_message()
question = {"role": "user", "content": "Use get_weather"}
with client.messages.stream(messages=[question], tools=[weather], **asked) as stream:
    called = stream.get_final_message()
use = called.content[-1]
result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
turns = [question, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
after = client.messages.create(messages=turns, tools=[weather], **asked)
beta = client.beta.messages.create(messages=[hello], betas=["context-management-2025-06-27"], **asked)
print(
    json.dumps(
        {
            "message": message.model_dump(mode="json"),
            "request_id": message._request_id,
            "text": text,
            "streamed": streamed.model_dump(mode="json"),
            "called": called.model_dump(mode="json"),
            "after": after.model_dump(mode="json"),
            "beta": beta.model_dump(mode="json"),
            "count": client.messages.count_tokens(model=told["model"], messages=[hello]).input_tokens,
            "models": [model.id for model in client.models.list()],
            "unknown_model": refusal(lambda: client.messages.create(**asked | {"model": "no/such"}, messages=[hello])),
            "wrong_key": refusal(lambda: stranger.messages.create(messages=[hello], **asked)),
            "no_messages": refusal(lambda: client.messages.create(messages=[], **asked)),
        }
    )
)
