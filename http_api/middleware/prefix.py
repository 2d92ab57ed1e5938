"""The path of `public_url`, where that is not the root: a proxy in front takes it off, or leaves it to the gateway."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send


class Below:
    """An app that is there below a path, and at the root as well."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path: str = scope["path"]
        if path == self._prefix or path.startswith(f"{self._prefix}/"):
            scope["path"] = path.removeprefix(self._prefix) or "/"
        return self._app(scope, receive, send)
