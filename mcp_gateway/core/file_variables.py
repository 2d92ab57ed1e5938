"""Variables that name a file in a setting's place, as containers get their secrets: `GATEWAY_METRICS_TOKEN_FILE`."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

SUFFIX = "_FILE"
"""Behind the name of a setting's variable."""
_MAX_BYTES = 1024 * 1024
"""Far more than any setting; a device may have no end."""


class FileVariables(NamedTuple):
    """What the files hold, and the variables that named them, by the settings' own variables; and what is wrong."""

    texts: dict[str, str]
    names: dict[str, str]
    faults: list[str]


def read_file_variables(given: Mapping[str, str], known: Collection[str]) -> FileVariables:
    """Of the variables that are `given`; `known` are those of settings, of which some end like this by themselves."""
    found = FileVariables({}, {}, [])
    for name, file in sorted(given.items()):
        variable = name.removesuffix(SUFFIX)
        if name in known or variable == name or variable not in known:
            continue
        found.names[variable] = name
        try:
            found.texts[variable] = _text_in(file, is_given_twice=variable in given)
        except ValueError as error:
            found.faults.append(f"{name}: {error}")
    return found


def _text_in(file: str, *, is_given_twice: bool) -> str:
    """Without the line's end that editors leave. Raises ValueError in words, without the name of the file."""
    if is_given_twice:
        raise ValueError(f"say it by this variable or by the one without {SUFFIX}, not by both")
    try:
        with Path(file).expanduser().open("rb") as opened:
            content = opened.read(_MAX_BYTES + 1)
        is_too_large = len(content) > _MAX_BYTES
        text = "" if is_too_large else content.decode().strip()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"the file cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except ValueError:  # not UTF-8, or no path
        raise ValueError("the file is not UTF-8 text") from None
    if is_too_large:
        raise ValueError("the file has more than 1 MiB, as no setting has")
    if not text:
        raise ValueError("the file is empty")
    return text
