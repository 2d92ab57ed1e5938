"""Fills the templates: text is escaped, and a name that is not given is an error and no empty place."""

import asyncio
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, tzinfo
from functools import cache
from itertools import islice
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context, select_autoescape
from jinja2.runtime import Context
from markupsafe import Markup
from starlette.types import Scope

from http_api.console import view
from http_api.console.static_files import StaticFiles
from mcp_gateway.core.caller import Role
from mcp_gateway.core.context import SENT
from mcp_gateway.core.policy_links import PolicyLinks

_PIECES_WITHOUT_A_TURN = 200
"""Of a template, each a value or what stands between two: about a millisecond."""
THEMES = ("light", "dark")
_THEME_COOKIE = "gw_theme"


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at a page."""

    email: str
    role: Role
    account_id: str
    is_administrator: bool
    zone: tzinfo = UTC


@dataclass(frozen=True, slots=True)
class MenuItem:
    """A page of the menu."""

    path: str
    label: str


class Templates:
    """`prefix` is the path under which the gateway is reached from outside, where that is not the root."""

    def __init__(
        self,
        files: StaticFiles,
        menu: tuple[MenuItem, ...],
        admin_menu: tuple[MenuItem, ...],
        links: PolicyLinks,
        *,
        prefix: str = "",
    ) -> None:
        self.files = files
        self._prefix = prefix
        self._everywhere = {
            "at": self.at,
            "static": lambda name: self.at(files.path_of(name)),
            "menu": menu,
            "admin_menu": admin_menu,
            "policy_links": links,
        }

    def at(self, path: str) -> str:
        """A path of the gateway's as a browser asks for it."""
        return self._prefix + path

    async def write(
        self, name: str, values: Mapping[str, Any], part: str | None, viewer: Viewer | None, scope: Scope
    ) -> str:
        """A page, or one block of it; a long one lets others have their turns."""
        seen_by = {"viewer": viewer, "path": scope["path"], "theme": _theme_in(scope)}
        pieces, written = self._pieces(name, seen_by | dict(values), part), list[str]()
        while some := list(islice(pieces, _PIECES_WITHOUT_A_TURN)):
            written += some
            if len(some) == _PIECES_WITHOUT_A_TURN:
                await asyncio.sleep(0)
        return "".join(written)

    def write_part(self, name: str, values: Mapping[str, Any], part: str) -> str:
        """One block of a page, with these values alone."""
        return "".join(self._pieces(name, values, part))

    def _pieces(self, name: str, values: Mapping[str, Any], part: str | None) -> Iterator[str]:
        template, filled = _environment().get_template(name), self._everywhere | dict(values)
        return template.generate(filled) if part is None else template.blocks[part](template.new_context(filled))


@cache
def _environment() -> Environment:
    """What is the same for every gateway: templates are compiled once, when a page is first asked for."""
    environment = Environment(
        loader=PackageLoader("http_api.console"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "money": view.money,
        "per_million": view.per_million,
        "compact": view.compact,
        "moment": _moment,
        "limit": view.limit,
        "duration": view.duration,
        "query_text": view.query_text,
    }
    environment.globals["once"] = lambda: secrets.token_urlsafe(16)
    environment.globals["ui"] = environment.get_template("macros.html").module  # in parts of pages, too
    return environment


@pass_context
def _moment(context: Context, at_s: int | None, otherwise: str = "never") -> Markup:
    """In the zone of whoever looks."""
    viewer = context.get("viewer")
    return view.moment(at_s, otherwise, viewer.zone if isinstance(viewer, Viewer) else UTC)


def theme_cookie(theme: str) -> tuple[bytes, bytes]:
    """The header that keeps a choice for a year, or forgets it for anything else."""
    kept, for_s = (theme, 365 * 24 * 3600) if theme in THEMES else ("", 0)
    return b"set-cookie", f"{_THEME_COOKIE}={kept}; Path=/; Max-Age={for_s}; SameSite=Lax; HttpOnly".encode()


def _theme_in(scope: Scope) -> str | None:
    """What somebody chose; None for what their system says."""
    for pair in scope[SENT].get(b"cookie", b"").decode("latin-1").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == _THEME_COOKIE and value in THEMES:
            return str(value)
    return None
