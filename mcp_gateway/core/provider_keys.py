"""The keys of providers, read from the environment and from files, and the headers that they are sent in."""

from collections.abc import Iterable, Mapping

from mcp_gateway.core.config import ConfigError
from mcp_gateway.core.named_secret import read_secret
from mcp_gateway.core.provider_settings import Preset, ProviderSettings, row_of

Headers = tuple[tuple[bytes, bytes], ...]


def read_keys(providers: Iterable[ProviderSettings], environ: Mapping[str, str]) -> dict[str, str]:
    """The key of each provider that is sent one. Raises ConfigError, which names all that are not there."""
    keys: dict[str, str] = {}
    faults: list[str] = []
    for provider in providers:
        if row_of(provider).auth == "none":
            continue
        try:
            keys[provider.name] = read_secret(
                provider.api_key_env, provider.api_key_file, environ, setting="api_key_file"
            )
        except ValueError as fault:
            faults.append(f"[[providers]] {provider.name}: {fault}")
    if faults:
        raise ConfigError(faults)
    return keys


def headers_of(row: Preset, key: str | None) -> Headers:
    """What every request to it bears."""
    headers = [(name.lower().encode(), value.encode()) for name, value in row.headers.items()]
    if key is not None and row.auth == "bearer":
        headers.append((b"authorization", b"Bearer " + key.encode()))
    elif key is not None and row.auth == "x-header":
        headers.append((row.auth_header.lower().encode(), key.encode()))
    return tuple(headers)


def proxy_headers_of(row: Preset, key: str | None) -> Headers:
    """The same where it is asked by its own paths, which may take the key in another header."""
    if row.proxy_auth_header is None or row.auth == "none":
        return headers_of(row, key)
    return headers_of(row.model_copy(update={"auth": "x-header", "auth_header": row.proxy_auth_header}), key)
