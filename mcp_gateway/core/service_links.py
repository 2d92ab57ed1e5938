"""The variables that Kubernetes, or Docker's links, set in a container for each Service: they are nobody's settings.

A Service named `gateway` brings `GATEWAY_PORT=tcp://10.0.0.1:8080`, `GATEWAY_SERVICE_HOST` and others, one named
`gateway-mcp` the like under `GATEWAY_MCP_`. Knows their form alone, and no setting.
"""

import re
from collections.abc import Mapping

_LINK = re.compile(r"(?:tcp|udp|sctp)://[\w.:\[\]-]+")
_LINK_NAME = re.compile(r"([A-Z0-9_]+?)_PORT(?:_\d{1,5}_(?:TCP|UDP|SCTP))?")
_OTHER_NAME = re.compile(r"SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d{1,5}_(?:TCP|UDP|SCTP)_(?:PROTO|PORT|ADDR)")


def service_links(environ: Mapping[str, str]) -> set[str]:
    """The names of those variables.

    Names of their form are not enough: a Service is known by one variable at least that holds a link. One that should
    hold a link and does not is somebody's own, such as a port that was set on purpose beside the others.
    """
    links = {
        name: found[1]
        for name, value in environ.items()
        if _LINK.fullmatch(value) and (found := _LINK_NAME.fullmatch(name))
    }
    prefixes = {f"{service}_" for service in links.values()}
    others = {
        name
        for name in environ
        for prefix in prefixes
        if name.startswith(prefix) and _OTHER_NAME.fullmatch(name.removeprefix(prefix))
    }
    return {*links, *others}
