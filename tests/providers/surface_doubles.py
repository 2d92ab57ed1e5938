"""What the doubles of providers do beside chats: completions, embeddings, responses, each as the real one does."""

import base64
import struct
from typing import Any

import orjson

from tests.providers.doubles import (
    ACCOUNT,
    OUTPUT,
    PROMPT,
    TEXT,
    Cloudflare,
    Cohere,
    DeepSeek,
    Generic,
    Google,
    Groq,
    Mistral,
    OddLines,
    Ollama,
    OpenAi,
    Refusal,
    Stream,
)

USAGE = {"prompt_tokens": PROMPT, "completion_tokens": OUTPUT, "total_tokens": PROMPT + OUTPUT}
VECTOR = (0.25, -1.5, 3.0)
BASE64 = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()


def _event(value: Any) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(value)


def _refused(message: str, **more: Any) -> Refusal:
    return Refusal(400, orjson.dumps({"error": {"message": message, "type": "invalid_request_error", **more}}))


class Completions:
    """Of a plain server."""

    head: dict[str, Any] = {"id": "cmpl-upstream", "object": "text_completion", "created": 7, "model": "m-1"}  # noqa: RUF012

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        return None

    def prompts(self, body: dict[str, Any]) -> int:
        prompt = body["prompt"]
        return len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1

    def usage(self, body: dict[str, Any]) -> dict[str, Any]:
        """A prompt is billed once, its choices each; the best of several as all of them."""
        output = OUTPUT * self.prompts(body) * max(body.get("n", 1), body.get("best_of", 1))
        prompt = PROMPT * self.prompts(body)
        return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}

    def choices(self, body: dict[str, Any]) -> range:
        return range(self.prompts(body) * body.get("n", 1))

    def unary(self, body: dict[str, Any]) -> bytes:
        logprobs = {"tokens": list(TEXT), "token_logprobs": [-0.5, -0.25, 0]} if "logprobs" in body else None
        listed = [
            {"text": "".join(TEXT), "index": index, "logprobs": logprobs, "finish_reason": "stop"}
            for index in self.choices(body)
        ]
        return orjson.dumps(self.head | {"choices": listed, "usage": self.usage(body), "system_fingerprint": ACCOUNT})

    def chunk(self, text: str, index: int = 0, finish_reason: str | None = None, **more: Any) -> bytes:
        choice = {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}
        return _event(self.head | {"choices": [choice]} | more)

    def stream(self, body: dict[str, Any]) -> Stream:
        *texts, last = TEXT
        events = [self.chunk(text, index) for index in self.choices(body) for text in texts]
        events += [self.chunk(last, index, "stop") for index in self.choices(body)]
        if body.get("stream_options", {}).get("include_usage"):
            events.append(_event(self.head | {"choices": [], "usage": self.usage(body)}))
        return [*events, b"data: [DONE]\n\n"]


class OddCompletions(Completions):
    def stream(self, body: dict[str, Any]) -> Stream:
        return [event.replace(b"data: ", b"data:").replace(b"\n", b"\r\n") for event in super().stream(body)]


class OpenAiCompletions(Completions):
    known = frozenset({
        "best_of", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "model", "n", "presence_penalty",
        "prompt", "seed", "stop", "stream", "stream_options", "suffix", "temperature", "top_p", "user",
    })  # fmt: skip

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        if unknown := body.keys() - self.known:
            return _refused(f"Unrecognized request argument supplied: {min(unknown)}", param=None, code=None)
        if "stream_options" in body and not body.get("stream"):
            return _refused("The 'stream_options' parameter is only allowed when 'stream' is enabled.")
        return None

    def chunk(self, text: str, index: int = 0, finish_reason: str | None = None, **more: Any) -> bytes:
        return super().chunk(text, index, finish_reason, usage=None, **more)


class OllamaCompletions(Completions):
    """A zero usage in every chunk; ids that are not unique; one text."""

    head = Completions.head | {"id": "cmpl-998", "system_fingerprint": "fp_ollama"}

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        if not isinstance(body["prompt"], str):
            return _refused("json: cannot unmarshal array into Go struct field .prompt of type string")
        return None

    def usage(self, body: dict[str, Any]) -> dict[str, Any]:
        return USAGE

    def choices(self, body: dict[str, Any]) -> range:
        return range(1)

    def chunk(self, text: str, index: int = 0, finish_reason: str | None = None, **more: Any) -> bytes:
        return super().chunk(text, index, finish_reason, usage=dict.fromkeys(USAGE, 0), **more)

    def stream(self, body: dict[str, Any]) -> Stream:
        events = [*(self.chunk(text) for text in TEXT), self.chunk("", 0, "stop")]
        if body.get("stream_options", {}).get("include_usage"):
            events.append(_event(self.head | {"choices": [], "usage": USAGE}))
        return [*events, b"data: [DONE]\n\n"]


class Embeddings:
    """Of a plain server."""

    usage: dict[str, Any] | None = {"prompt_tokens": PROMPT, "total_tokens": PROMPT}  # noqa: RUF012
    takes = frozenset({"model", "input", "dimensions", "encoding_format", "user"})
    takes_tokens = True
    most = 2048
    more: dict[str, Any] = {}  # noqa: RUF012

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        if unknown := body.keys() - self.takes:
            return self.unknown(min(unknown))
        inputs = body["input"]
        if isinstance(inputs, list) and (len(inputs) > self.most or not (self.takes_tokens or type(inputs[0]) is str)):
            return _refused("invalid input")
        return None

    def unknown(self, name: str) -> Refusal:
        return _refused(f"Unrecognized request argument supplied: {name}")

    def inputs(self, body: dict[str, Any]) -> int:
        inputs = body["input"]
        return len(inputs) if isinstance(inputs, list) and not isinstance(inputs[0], int) else 1

    def vector(self, body: dict[str, Any]) -> Any:
        return BASE64 if body.get("encoding_format") == "base64" else list(VECTOR)

    def unary(self, body: dict[str, Any]) -> bytes:
        data = [
            {"object": "embedding", "index": index, "embedding": self.vector(body)}
            for index in range(self.inputs(body))
        ]
        answer = {"object": "list", "data": data, "model": "m-1", **self.more}
        return self.written(answer | ({} if self.usage is None else {"usage": self.usage}))

    def written(self, answer: dict[str, Any]) -> bytes:
        return orjson.dumps(answer)

    def stream(self, body: dict[str, Any]) -> Stream:
        raise NotImplementedError


class OpenAiEmbeddings(Embeddings):
    def written(self, answer: dict[str, Any]) -> bytes:
        return orjson.dumps(answer, option=orjson.OPT_INDENT_2)


class CohereEmbeddings(Embeddings):
    takes = frozenset({"model", "input", "encoding_format"})
    takes_tokens = False
    most = 96
    more = {"id": ACCOUNT, "meta": {"warnings": ["a", "b"]}}  # noqa: RUF012


class CloudflareEmbeddings(Embeddings):
    takes = frozenset({"model", "input", "encoding_format"})
    takes_tokens = False
    more = {"error": None}  # noqa: RUF012


class OllamaEmbeddings(Embeddings):
    takes_tokens = False


class MistralEmbeddings(Embeddings):
    takes = frozenset({"model", "input", "output_dimension", "encoding_format", "metadata", "output_dtype"})
    takes_tokens = False
    usage = {"prompt_tokens": PROMPT, "total_tokens": PROMPT, "completion_tokens": 0, "prompt_audio_seconds": None}  # noqa: RUF012

    def unknown(self, name: str) -> Refusal:
        return Refusal(422, orjson.dumps({"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "x"}]}))

    def written(self, answer: dict[str, Any]) -> bytes:
        return orjson.dumps({"id": ACCOUNT, **answer})


class GoogleEmbeddings(Embeddings):
    """Tells no usage, and floats whatever was asked for."""

    takes = frozenset({"model", "input", "dimensions", "encoding_format"})
    takes_tokens = False
    usage = None

    def vector(self, body: dict[str, Any]) -> Any:
        return list(VECTOR)


class Responses:
    """Of a provider that keeps nothing. An event has what its server writes beside the ones that OpenAI has."""

    cached = 8
    refused = frozenset[str]()
    more: dict[str, Any] = {"store": False}  # noqa: RUF012
    beside: dict[str, Any] = {}  # noqa: RUF012

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        if unknown := body.keys() & self.refused:
            return _refused(f"`{min(unknown)}` is not supported", param=min(unknown))
        return None

    def item(self, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("tools"):
            called = {"name": "weather", "call_id": "call_1", "arguments": '{"city":"Paris"}', "status": "completed"}
            return {"type": "function_call", "id": "fc_1", **called}
        part = {"type": "output_text", "text": "".join(TEXT), "annotations": []}
        return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}

    def usage(self) -> dict[str, Any]:
        return {
            "input_tokens": PROMPT,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": OUTPUT,
            "output_tokens_details": {"reasoning_tokens": 3},
            "total_tokens": PROMPT + OUTPUT,
        }

    def output(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}
        is_encrypted = "reasoning.encrypted_content" in body.get("include", ())
        return [*([thought] if is_encrypted else []), self.item(body)]

    def response(self, body: dict[str, Any], status: str = "completed", **more: Any) -> dict[str, Any]:
        head = {"id": "resp_upstream", "object": "response", "created_at": 7, "model": "m-1", "status": status}
        return {**head, "output": [], "usage": None, "error": None, "user": ACCOUNT, **self.more, **more}

    def whole(self, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("max_output_tokens", 100) < OUTPUT:
            why = {"reason": "max_output_tokens"}
            told = self.usage() | {"output_tokens": body["max_output_tokens"]}
            return self.response(body, "incomplete", incomplete_details=why, output=self.output(body), usage=told)
        return self.response(body, output=self.output(body), usage=self.usage())

    def unary(self, body: dict[str, Any]) -> bytes:
        return orjson.dumps(self.whole(body))

    def event(self, number: int, kind: str, **more: Any) -> bytes:
        told = orjson.dumps({"type": kind, "sequence_number": number, **more})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), told)

    def events(self, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        begun = self.response(body, "in_progress")
        told: list[tuple[str, dict[str, Any]]] = [(kind, {"response": begun}) for kind in ("created", "in_progress")]
        for index, item in enumerate(self.output(body)):
            told += [("output_item.added", {"output_index": index, "item": item | {"status": "in_progress"}})]
            told += self.deltas(item, index)
            told += [("output_item.done", {"output_index": index, "item": item})]
        last = self.whole(body)
        return [*told, (last["status"], {"response": last})]

    def deltas(self, item: dict[str, Any], index: int) -> list[tuple[str, dict[str, Any]]]:
        at = {"item_id": item["id"], "output_index": index}
        if item["type"] == "function_call":
            return [("function_call_arguments.delta", at | {"delta": text}) for text in ('{"city":', '"Paris"}')]
        if item["type"] == "reasoning":
            return []
        return [("output_text.delta", at | {"content_index": 0, "delta": text} | self.beside) for text in TEXT]

    def stream(self, body: dict[str, Any]) -> Stream:
        return [self.event(at, f"response.{kind}", **told) for at, (kind, told) in enumerate(self.events(body))]


class OpenAiResponses(Responses):
    """It stores what it is not told to leave, and pads what it tells piece by piece."""

    more = {"store": True, "service_tier": "default", "billing": {"payer": ACCOUNT}}  # noqa: RUF012
    beside = {"obfuscation": "aXbYc", "logprobs": []}  # noqa: RUF012

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        assert body["store"] is False
        assert body["service_tier"] == "default"
        return None


class GroqResponses(Responses):
    refused = frozenset({"store", "include", "previous_response_id", "truncation", "prompt_cache_key"})


class OllamaResponses(Responses):
    cached = 0


class DeepSeekResponses(Responses):
    def unary(self, body: dict[str, Any]) -> bytes:
        return b"\n\n" + super().unary(body)

    def stream(self, body: dict[str, Any]) -> Stream:
        return [b": keep-alive\n\n", *super().stream(body)]


WITH_COMPLETIONS: dict[type[Generic], type[Completions]] = {
    Generic: Completions, OddLines: OddCompletions, OpenAi: OpenAiCompletions, Ollama: OllamaCompletions,
}  # fmt: skip
WITH_EMBEDDINGS: dict[type[Generic], type[Embeddings]] = {
    Generic: Embeddings, OpenAi: OpenAiEmbeddings, Cohere: CohereEmbeddings, Cloudflare: CloudflareEmbeddings,
    Ollama: OllamaEmbeddings, Mistral: MistralEmbeddings, Google: GoogleEmbeddings,
}  # fmt: skip
WITH_RESPONSES: dict[type[Generic], type[Responses]] = {
    Generic: Responses, OpenAi: OpenAiResponses, Groq: GroqResponses, Ollama: OllamaResponses,
    DeepSeek: DeepSeekResponses,
}  # fmt: skip
