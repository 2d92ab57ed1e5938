"""What every host's model takes of our tools: the rules of each, for what goes in and what comes out, and of prompts.

Each rule has been reported by somebody whose tools were refused, or could not be called, for want of it.
"""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from mcp_gateway.tools import chat_completion, create_budget, embeddings, end_budget, get_balance, list_models
from mcp_gateway.tools.prompts import DEFINITIONS
from tests.cases import each
from tests.doors.mcp_host import Host, call, open_host
from tests.registries import tools

Node = dict[str, Any]
Rule = Callable[[str, Node], bool]
TOOLS = tools()
SCHEMAS = {
    f"{name} {way}": schema
    for name, tool in TOOLS.items()
    for way, schema in (("in", tool.input_schema), ("out", tool.output_schema))
}
KINDS = {"string", "integer", "number", "boolean", "array", "object"}
STRICT = {"type", "properties", "required", "items", "enum", "description", "minimum", "maximum"}
"""Of the keywords that OpenAI's strict mode and Gemini's Schema both know, those that are used here."""


def nodes(schema: Node, path: str = "#") -> Iterator[tuple[str, Node]]:
    """Each node with its place; a name of a property is none."""
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from nodes(part, f"{path}/{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}/items")


def at_root(rule: Rule) -> Rule:
    return lambda path, node: path != "#" or rule(path, node)


def within(rule: Rule) -> Rule:
    return lambda path, node: path == "#" or rule(path, node)


def of(kinds: set[str], rule: Rule) -> Rule:
    """A rule for nodes of these types."""
    return lambda path, node: node["type"] not in kinds or rule(path, node)


def only_of(kinds: set[str], keys: set[str]) -> Rule:
    """Keys that only nodes of these types have."""
    return lambda _, node: node["type"] in kinds or not keys & node.keys()


def has_property_names(_: str, node: Node) -> bool:
    return all(re.fullmatch(r"[a-zA-Z0-9_.-]{1,64}", name) for name in node.get("properties", ()))


RULES: dict[str, Rule] = {
    "Cursor, Gemini, Kimi: one type at every node": lambda _, node: str(node.get("type")) in KINDS,
    "Nova: type, properties and required at the root": at_root(
        lambda _, node: node.keys() <= {"type", "properties", "required"}
    ),
    "Anthropic, Claude Code, Kiro: the root is an object": at_root(lambda _, node: node["type"] == "object"),
    "Gemini, OpenAI strict: no keyword beyond these": lambda _, node: node.keys() <= STRICT,
    "python-genai: additionalProperties is no boolean": lambda _, node: "additionalProperties" not in node,
    "OpenAI: lists have items": of({"array"}, lambda _, node: "items" in node),
    "OpenAI: objects have properties": of({"object"}, lambda _, node: "properties" in node),
    "Gemini: objects within have some": within(of({"object"}, lambda _, node: bool(node["properties"]))),
    "Gemini: items only in lists": only_of({"array"}, {"items"}),
    "Gemini: properties and required only in objects": only_of({"object"}, {"properties", "required"}),
    "Gemini: what is required exists": lambda _, node: (
        node.get("properties", {}).keys() >= set(node.get("required", ()))
    ),
    "Gemini: bounds only of numbers": only_of({"integer", "number"}, {"minimum", "maximum"}),
    "Gemini: enums only of texts": only_of({"string"}, {"enum"}),
    "Gemini: no text of an enum is empty": lambda _, node: all(node.get("enum", ["x"])),
    "Anthropic: names of properties": has_property_names,
    "OpenAI strict: five levels of objects": lambda path, _: path.replace("/items", "").count("/") <= 5,
}


@each("schema", SCHEMAS.values())
@each("rule", RULES.values())
def test_every_host_s_model_takes_the_schema(rule: Rule, schema: Node) -> None:
    assert [path for path, node in nodes(schema) if not rule(path, node)] == []


@each("schema", SCHEMAS.values())
def test_the_schema_is_one_by_each_draft(schema: Node) -> None:
    Draft202012Validator.check_schema(schema)
    Draft7Validator.check_schema(schema)


@each("odd", [
    {"type": ["string", "null"]}, {}, {"const": "x"}, {"enum": ["x"]}, {"anyOf": [{"type": "string"}]},
    {"type": "null"}, {"type": "array"}, {"type": "object"}, {"type": "object", "properties": {}},
    {"type": "string", "items": {}}, {"type": "integer", "enum": [1]}, {"type": "string", "enum": [""]},
    {"type": "string", "minimum": 1},
    {"type": "object", "properties": {"a b": {"type": "string"}}}, {"type": "string", "default": "x"},
    {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False},
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]}, {"$ref": "#"},
])  # fmt: skip
def test_a_schema_that_some_host_refuses_breaks_a_rule(odd: Node) -> None:
    assert not all(rule("#/odd", odd) for rule in RULES.values())


def test_tools_and_their_descriptions_are_of_a_size_that_hosts_take() -> None:
    for name, tool in TOOLS.items():
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", name)  # Claude Code and Cursor put the server's name before it
        assert 0 < len(tool.description or "") <= 1024
        told = [node.get("description", "") for _, node in nodes(tool.input_schema)]
        assert max(map(len, told)) <= 1024


def test_all_tools_together_leave_a_models_context_to_its_conversation() -> None:
    """Hosts tell a model of every tool before its first word: its description, and those of its arguments."""
    told = [tool.description or "" for tool in TOOLS.values()]
    told += [node.get("description", "") for tool in TOOLS.values() for _, node in nodes(tool.input_schema)]
    assert len("".join(told).encode()) < 2048
    assert len(TOOLS) <= 8


def test_prompts_have_names_and_arguments_that_hosts_take() -> None:
    for prompt in DEFINITIONS:
        assert prompt.description
        for name in (prompt.name, *(argument.name for argument in prompt.arguments or ())):
            assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name)


# Meaning is kept by checking


@each(
    "arguments",
    [tool.ARGUMENTS for tool in (chat_completion, create_budget, embeddings, end_budget, get_balance, list_models)],
)
def test_what_a_schema_asks_for_is_what_is_taken(arguments: Any) -> None:
    """Of each argument the least that its schema allows."""
    properties = arguments.schema["properties"]
    filled = {name: least(part) for name, part in properties.items()}
    assert arguments.taken(filled).keys() == properties.keys()
    Draft202012Validator(arguments.schema).validate(filled)


def least(node: Node) -> Any:
    """A value that a schema allows, and that is not empty."""
    if "enum" in node:
        return node["enum"][0]
    if node["type"] == "array":
        return [least(node["items"])]
    if node["type"] == "object":
        return {name: least(part) for name, part in node["properties"].items()}
    return {"string": "x", "integer": node.get("minimum", 1), "number": node.get("minimum", 1), "boolean": True}[
        node["type"]
    ]


def empty(node: Node) -> Any:
    """What a model fills in that has to give every field, as in OpenAI's strict mode, and means none of them."""
    if "enum" in node:
        return node["enum"][0]
    if node["type"] == "object":
        return {name: empty(part) for name, part in node["properties"].items()}
    return {"string": "", "array": [], "boolean": False}.get(node["type"], max(node.get("minimum", 0), 0))


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with open_host(tmp_path) as host:
        yield host


async def test_a_chat_whose_every_field_had_to_be_filled_is_served(host: Host) -> None:
    schema = chat_completion.ARGUMENTS.schema
    message = empty(schema["properties"]["messages"]["items"]) | {"role": "user", "content": "hello"}
    filled = empty(schema) | {
        "model": "demo/echo",
        "messages": [message],
        "max_tokens": 50,
        "temperature": 1,
        "top_p": 1,
    }
    result = (await host.post(call("chat_completion", filled))).json()["result"]
    assert not result["isError"], result
    assert "hello" in result["content"][0]["text"]
    filled = empty(list_models.ARGUMENTS.schema) | {"capability": ""}
    assert not (await host.post(call("list_models", filled))).json()["result"]["isError"]
    filled = empty(embeddings.ARGUMENTS.schema) | {"model": "demo/echo", "input": ["hello"], "dimensions": 4}
    assert not (await host.post(call("embeddings", filled))).json()["result"]["isError"]


async def test_what_a_schema_does_not_say_is_taken_too(host: Host) -> None:
    """Of several kinds a host is told one."""
    more = {"stop": "zzz", "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]}
    result = (await host.post(call("chat_completion", {"model": "demo/echo", **more}))).json()["result"]
    assert "hello" in result["content"][0]["text"]
    for name, arguments in (
        ("list_models", {"max_price_usd": "0.5"}),
        ("embeddings", {"model": "demo/echo", "input": "a"}),
    ):
        assert not (await host.post(call(name, arguments))).json()["result"]["isError"]
