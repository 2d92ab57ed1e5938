"""The style sheet, the scripts and the icon, under a path that changes with any of them: kept for good by browsers."""

from hashlib import sha256
from importlib.resources import files
from typing import Any

from http_api.operations import Answered, Asked, Nothing
from http_api.query import AnyQuery
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.text import shown

STATIC_PATH = "/console/static/{version}/{name}"
_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_KEPT = ((b"cache-control", b"public, max-age=31536000, immutable"),)


class StaticFiles:
    """All of them in memory, a few tens of kilobytes; scripts find each other beside themselves."""

    def __init__(self) -> None:
        folder = files("http_api.console") / "static"
        self._files = {file.name: file.read_bytes() for file in sorted(folder.iterdir(), key=lambda file: file.name)}
        whole = sha256()
        for name, content in self._files.items():
            whole.update(b"%b %d " % (name.encode(), len(content)) + content)
        self._version = whole.hexdigest()[:12]

    def path_of(self, name: str) -> str:
        """Raises KeyError for what is no such file: templates name those that there are."""
        if name not in self._files:
            raise KeyError(name)
        return STATIC_PATH.format(version=self._version, name=name)

    async def get(self, asked: Asked[AnyQuery, Nothing]) -> Answered[Any]:
        """Whatever version a page that is still open asks for gets the present one, which is not kept then."""
        name = asked.path["name"]
        if (content := self._files.get(name)) is None:
            raise GatewayError("unknown_url", f"There is no {shown(name)} here.")
        headers = _KEPT if asked.path["version"] == self._version else ()
        return Answered(content, headers=headers, media_type=_MEDIA_TYPES[name.rpartition(".")[2]])
