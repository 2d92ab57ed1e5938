"""Writes what people read about the settings: `gateway.example.toml` and `docs/configuration.md`, from the tree alone.

`python -m mcp_gateway.core.config_reference` in the root of the repository writes both anew.
"""

import json
import re
import textwrap
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from mcp_gateway.core.config import (
    CandidateSettings,
    McpServerSettings,
    ModelSettings,
    PricingSettings,
    Setting,
    Settings,
    TierSettings,
    settings_of,
)
from mcp_gateway.core.config_faults import TABLES_IN_LISTS, KeyPath
from mcp_gateway.core.provider_settings import ProviderSettings
from mcp_gateway.core.section import Section

EXAMPLE_FILE = Path("gateway.example.toml")
REFERENCE_FILE = Path("docs/configuration.md")

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_UNSET = "unset"
_REQUIRED = "none, it must be given"

_EXAMPLE_HEAD = """\
# The settings of mcp-gateway: copy this file to gateway.toml and take the # from the lines that you change.
#
# A commented-out line shows the default, or an example where there is none. Times are in seconds (_s), sizes in bytes.
# An environment variable wins over this file: GATEWAY_PORT, or GATEWAY_LIMITS__IN_FLIGHT for in_flight of [limits].
# Settings that belong to no table must stand above the first [table].
"""
_REFERENCE_HEAD = """\
# Configuration

`make docs` writes this page from the settings tree. [gateway.example.toml](../gateway.example.toml) shows the same as a
file.

- Settings are read from the file that `--config` names, else from `gateway.toml` in the working folder if there is one.
- Environment variables win over the file. An empty one counts as unset. A list is written with commas, or as JSON.
- `_FILE` behind the name of a variable has it read from a file, as containers get their secrets:
  `GATEWAY_METRICS_TOKEN_FILE=/run/secrets/metrics_token`.
- A setting that does not exist is refused, in the file and in the environment, with the name that is nearest.
  `GATEWAY_URL` and `GATEWAY_API_KEY` belong to the stdio bridge; the server passes over them.
- Times are in seconds (`_s`), sizes in bytes, money in USD as decimal strings; prices are for one token unless they say
  `per_million`.
- Relative paths start at the working folder; `~` is the home folder.
- Kubernetes gives pods variables named after services, so beside a service named `gateway` it sets `GATEWAY_PORT` and
  others. Give the service another name, or the pod `enableServiceLinks: false`.
"""


def example_toml() -> str:
    """The documented example file: every setting with its help, its default or an example commented out."""
    blocks = [_EXAMPLE_HEAD.rstrip()]
    for table, settings in _tables():
        if table:
            blocks.append(f"{_comment(_help_of(table))}\n{_heading(table, commented_out='#')}")
        blocks += [f"{_comment(_help_in_example(setting))}\n#{_assignment(setting)}" for setting in settings]
    return "\n\n".join(blocks) + "\n"


def reference_markdown() -> str:
    """The page with a table of every setting: TOML key, environment variable, default, help."""
    parts = [_REFERENCE_HEAD]
    for table, settings in _tables():
        title = f"`{_heading(table)}`" if table else "Above the first table"
        text = f"{_help_of(table)}\n\n" if table else ""
        rows = "".join(_row(setting) for setting in settings)
        parts.append(
            f"## {title}\n\n{text}| Key | Environment variable | Default | Meaning |\n|---|---|---|---|\n{rows}"
        )
    return "\n".join(parts)


def main() -> None:
    """Write both files into the working folder."""
    EXAMPLE_FILE.write_text(example_toml(), encoding="utf-8")
    REFERENCE_FILE.write_text(reference_markdown(), encoding="utf-8")


def _tables() -> Iterator[tuple[KeyPath, list[Setting]]]:
    for table, settings in groupby(settings_of(Settings), key=lambda setting: setting.path[:-1]):
        yield table, list(settings)


def _section(table: KeyPath) -> type[Section]:
    in_lists: dict[KeyPath, type[Section]] = {
        ("providers",): ProviderSettings,
        ("models",): ModelSettings,
        ("models", "pricing"): PricingSettings,
        ("models", "pricing", "tiers"): TierSettings,
        ("models", "candidates"): CandidateSettings,
        ("mcp_servers",): McpServerSettings,
    }
    return in_lists.get(table) or type(getattr(Settings(), table[0]))


def _help_of(table: KeyPath) -> str:
    return _section(table).__doc__ or ""


def _heading(table: KeyPath, commented_out: str = "") -> str:
    """In the example headings of what there may be several of are commented out too: they would add one."""
    mark = commented_out if table[:1] in TABLES_IN_LISTS else ""
    name = ".".join(table)
    return f"{mark}[[{name}]]" if table in TABLES_IN_LISTS else f"{mark}[{name}]"


def _comment(text: str) -> str:
    return textwrap.fill(text, width=118, initial_indent="# ", subsequent_indent="# ")


def _help_in_example(setting: Setting) -> str:
    text = setting.field.description or ""
    if not setting.field.examples:
        return text
    default = _default(setting)
    return f"{text} {'Unset by default' if default == _UNSET else f'Default: {default}'}; for example:"


def _assignment(setting: Setting) -> str:
    field, name = setting.field, setting.path[-1]
    shown = field.examples[0] if field.examples else field.default
    return f"{name} = {_toml(shown)}" + (f"  # {_binary_size(shown)}" if name.endswith("_bytes") else "")


def _row(setting: Setting) -> str:
    name, default = setting.path[-1], _default(setting)
    shown = default if default in (_UNSET, _REQUIRED) else f"`{default}`"
    if name.endswith("_bytes"):
        shown += f" ({_binary_size(setting.field.default)})"
    variable = f"`{setting.variable}`" if setting.variable else "in the file only"
    meaning = " ".join((setting.field.description or "").split())
    return f"| `{name}` | {variable} | {shown} | {meaning} |\n"


def _default(setting: Setting) -> str:
    field = setting.field
    if field.is_required():
        return _REQUIRED
    is_unset = field.default_factory is not None or field.default in (None, "", ())
    return _UNSET if is_unset else _toml(field.default)


def _toml(value: Any) -> str:
    """TOML writes texts, numbers, booleans and lists as JSON does, and tables in one line with `=`."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml_key(name)} = {_toml(one)}" for name, one in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def _toml_key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name)


def _binary_size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:g} MiB" if size_bytes >= 2**20 else f"{size_bytes / 2**10:g} KiB"


if __name__ == "__main__":
    main()
