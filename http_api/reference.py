"""GET /docs: the reference as one page of the console's look, written from the document that /openapi.json is.

Nothing is said here of any operation. Links of its own lead within the page or beside it.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from html import escape
from typing import Any

import orjson
from markupsafe import Markup

from http_api.operations import Access, Answered, AnyOperation, Asked, Nothing, WritePage, page_at_root
from http_api.query import AnyQuery
from http_api.rendering import HTML
from mcp_gateway.core.errors import TABLE

Json = dict[str, Any]
KeyPrefix = Callable[[str], Awaitable[str]]
"""The part of a key, by its id, that tells its owner which it is."""

_NO_KEY = "gw_live_..."
_KEY_HERE = "\0"
"""Where the reader's key stands in the page that is kept; no text of it has one."""
_CODE = re.compile(r"`([^`]+)`")
_FURTHER = re.compile(r"_(?:v1|inference|root)$")
"""At the end of an operation's name, where the same is under a further prefix."""


class Reference:
    """Writes the page when it is first asked for; `describe` makes the document, which has this operation too, and
    `serves_guests` says whether keys may be left out.
    """

    def __init__(
        self,
        describe: Callable[[], Json],
        key_prefix: KeyPrefix,
        write_page: WritePage,
        *,
        serves_guests: Callable[[], bool],
    ) -> None:
        self._describe = describe
        self._key_prefix = key_prefix
        self._write_page = write_page
        self._serves_guests = serves_guests
        self._pages: dict[bool, str] = {}
        """By whether guests are served, which may change."""
        self.row: AnyOperation = page_at_root(
            "/docs",
            "reference",
            "Tell all of this to people, with the beginning of the reader's key in the examples.",
            bytes,
            self.get,
            access=Access.PUBLIC,
            media_types=(HTML,),
        )

    async def get(self, asked: Asked[AnyQuery, Nothing]) -> Answered[Any]:
        key_id = asked.caller.key_id
        shown = _NO_KEY if key_id is None else f"{await self._key_prefix(key_id)}..."
        body = Markup(self._page().replace(_KEY_HERE, escape(shown)))  # noqa: S704 - escaped where it is written
        return await self._write_page("reference.html", {"body": body}, asked)

    def _page(self) -> str:
        serves_guests = self._serves_guests()
        if serves_guests not in self._pages:
            self._pages[serves_guests] = _page_of(self._describe())
        return self._pages[serves_guests]


def _page_of(document: Json) -> str:
    info, base_url = document["info"], document["servers"][0]["url"]
    operations = _operations_in(document)
    parts = [
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{_prose(info['description'])}</p>",
        f"<p>Base address: <code>{escape(base_url)}</code>. "
        "The same for programs: <a href='openapi.json'>openapi.json</a>.</p>",
        _contents(operations),
        "<h2 id='operations'>Operations</h2>",
        *(_operation(*one, base_url, document["components"]) for one in operations),
        "<h2 id='schemas'>Schemas</h2>",
        *(_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())),
        "<h2 id='errors'>Errors</h2>",
        _errors(),
    ]
    return "\n".join(parts)


def _operations_in(document: Json) -> list[tuple[str, list[str], Json]]:
    """Method, paths and what is told, of each operation once: under its further prefixes it is the same."""
    found: dict[tuple[str, str, str], tuple[str, list[str], Json]] = {}
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            same = (method, _FURTHER.sub("", told["operationId"]), told["summary"])
            found.setdefault(same, (method.upper(), [], told))[1].append(path)
    return list(found.values())


def _contents(operations: Iterable[tuple[str, list[str], Json]]) -> str:
    links = (
        f"<li><a href='#{escape(told['operationId'])}'><code>{method} {escape(paths[0])}</code></a></li>"
        for method, paths, told in operations
    )
    return (
        f"<div role='navigation' aria-label='Operations'><ul class='contents'>{''.join(links)}</ul>"
        "<p><a href='#operations'>Operations</a>, <a href='#schemas'>schemas</a>, <a href='#errors'>errors</a></p>"
        "</div>"
    )


def _operation(method: str, paths: list[str], told: Json, base_url: str, components: Json) -> str:
    name = escape(told["operationId"])
    further = f" Also at {_list(paths[1:])}." if paths[1:] else ""
    return "\n".join(
        (
            f"<section><h3 id='{name}'><a href='#{name}'><code>{method} {escape(paths[0])}</code></a></h3>",
            f"<p>{_prose(told['summary'])}{further} {_who_may(told['security'])}</p>",
            _table("Parameters", ("name", "type", "meaning"), map(_parameter_row, told.get("parameters", ()))),
            _body(told, components),
            "<pre tabindex='0' aria-label='As a command'><code>"
            f"{_curl(method, paths[0], told, base_url, components)}</code></pre>",
            _table("Answers", ("status", "body", "meaning"), map(_answer_row, told["responses"].items())),
            "</section>",
        )
    )


def _who_may(security: list[Json]) -> str:
    schemes = {name: scopes for one in security for name, scopes in one.items()}
    scopes = [scope for one in schemes.values() for scope in one]
    if not security:
        return "Anybody may ask."
    if not schemes.keys() & {"bearer", "apiKey"}:
        return f"Needs {_list(schemes)}."
    needed = f" with the scope {_list(scopes[:1])}" if scopes else ""
    return f"A key{needed} may be sent, or none." if {} in security else f"Needs a key{needed}."


def _parameter_row(told: Json) -> tuple[str, ...]:
    needed = ", needed" if told["required"] else ""
    schema = told["schema"]
    return f"<code>{escape(told['name'])}</code>", f"{_type_of(schema)}, in the {told['in']}{needed}", _meaning(schema)


def _body(told: Json, components: Json) -> str:
    if "requestBody" not in told:
        return ""
    (content,) = told["requestBody"]["content"].values()
    schema = content["schema"]
    return f"<p>Body: {_type_of(schema)}. {_prose(_resolved(schema, components).get('description', ''))}</p>"


def _answer_row(answer: tuple[str, Json]) -> tuple[str, ...]:
    status, told = answer
    kinds = (
        f"{_type_of(one['schema'])}" if media_type == "application/json" else f"<code>{escape(media_type)}</code>"
        for media_type, one in told.get("content", {}).items()
    )
    return status, ", ".join(kinds), _prose(told["description"])


def _curl(method: str, path: str, told: Json, base_url: str, components: Json) -> str:
    lines = [f"curl -X {method} '{escape(base_url)}{escape(path)}'"]
    if any(one.keys() & {"bearer", "apiKey"} for one in told["security"]):
        lines.append(f"-H 'Authorization: Bearer {_KEY_HERE}'")
    if "requestBody" in told:
        (content,) = told["requestBody"]["content"].values()
        example = _example(_resolved(content["schema"], components), components)
        lines += ["-H 'Content-Type: application/json'", f"-d '{escape(orjson.dumps(example).decode(), quote=False)}'"]
    return " \\\n  ".join(lines)


def _example(schema: Json, components: Json, depth: int = 0) -> Any:
    """A value of what is needed, with no more."""
    schema = _resolved(schema, components)
    for told in ("example", "default", "const"):
        if told in schema:
            return schema[told]
    if chosen := schema.get("examples") or schema.get("enum"):
        return chosen[0]
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return _example(choices[0], components, depth)
    match schema.get("type"):
        case "object":
            needed = schema.get("required", ())
            fields = schema.get("properties", {})
            return {name: _example(fields[name], components, depth + 1) for name in needed}
        case "array":
            return [_example(schema.get("items", {}), components, depth + 1)]
        case kind:
            return {"string": "...", "integer": schema.get("minimum", 1), "number": 1, "boolean": True}.get(str(kind))


def _schema(name: str, schema: Json) -> str:
    anchor, needed = f"schema-{escape(name)}", schema.get("required", ())
    rows = [
        (
            f"<code>{escape(field)}</code>",
            _type_of(told) + (", needed" if field in needed else ""),
            _meaning(told),
        )
        for field, told in schema.get("properties", {}).items()
    ]
    told = [f"<section><h3 id='{anchor}'><a href='#{anchor}'>{escape(name)}</a></h3>"]
    told.append(f"<p>{_prose(schema.get('description', ''))}</p>")
    told.append(_table("Fields", ("name", "type", "meaning"), rows) if rows else f"<p>{_type_of(schema)}</p>")
    return "\n".join((*told, "</section>"))


def _errors() -> str:
    rows = (
        (f"<code>{code}</code>", str(row.status), f"<code>{row.type}</code>", _prose(row.advice))
        for code, row in TABLE.items()
    )
    return _table("By code", ("code", "status", "type", "what to do"), rows)


def _resolved(schema: Json, components: Json) -> Json:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: Json = components["schemas"][name] if name else schema
    return found


def _type_of(schema: Json) -> str:
    """In words, with links to the schemas that it names."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#schema-{name}'>{name}</a>"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(map(_type_of, choices)))
    if "enum" in schema or "const" in schema:
        return _list(map(str, schema.get("enum", [schema.get("const")])))
    kind = schema.get("type", "any value")
    if kind == "array":
        return f"list of {_type_of(schema.get('items', {}))}"
    return escape(kind if isinstance(kind, str) else " or ".join(kind))


def _meaning(schema: Json) -> str:
    """What is said of a value, with its bounds."""
    named = {
        "minimum": "at least",
        "maximum": "at most",
        "minLength": "from",
        "maxLength": "up to",
        "default": "unless said:",
    }
    units = {"minLength": " characters", "maxLength": " characters"}
    bounds = (f"{word} {escape(str(schema[of]))}{units.get(of, '')}" for of, word in named.items() if of in schema)
    return ". ".join(filter(None, (_prose(schema.get("description", "")).rstrip("."), ", ".join(bounds))))


def _table(caption: str, headings: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(f"<th scope='col'>{heading}</th>" for heading in headings)
    table = f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class='scroll'>{table}</div>"


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"<code>{escape(name)}</code>" for name in names)


def _prose(text: str) -> str:
    """As written in docstrings: what stands in backticks is code."""
    return _CODE.sub(r"<code>\1</code>", escape(" ".join(text.split()), quote=False))
