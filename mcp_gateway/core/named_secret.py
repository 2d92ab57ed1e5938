"""A secret that the settings only name: by an environment variable, or by a file."""

from collections.abc import Mapping
from pathlib import Path


def read_secret(variable: str | None, file: str | None, environ: Mapping[str, str], *, setting: str) -> str:
    """The variable's, else the file's, which the settings name as `setting`. Raises ValueError in words."""
    secret = environ.get(variable, "").strip() if variable is not None else ""
    if not secret and file is not None:
        try:
            secret = Path(file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise ValueError(f"{setting} cannot be read") from None
    if not secret:
        raise ValueError(f"{variable} is not set" if file is None else f"{setting} is empty")
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        place = variable if file is None else setting
        raise ValueError(f"what {place} has must be visible ASCII characters, without spaces or line ends")
    return secret
