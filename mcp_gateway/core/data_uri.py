"""Images as data: URIs: the one form in which they are checked and sent on, whichever form they came in."""

import re

_HEAD = re.compile(r"data:image/(png|jpe?g|webp|gif)(?:;[^;,\s]{1,64}){0,8}?;base64,", re.IGNORECASE)
_BLANKS = " \t\r\n"


def canonical_image(url: str) -> str:
    """`data:image/<type>;base64,<digits>` without parameters and line ends, which backends do not read.

    What is no image in base64 stays as it is.
    """
    found = _HEAD.match(url)
    if found is None:
        return url
    kind = found[1].lower().replace("jpg", "jpeg")
    head = f"data:image/{kind};base64,"
    if url.startswith(head) and not any(blank in url for blank in _BLANKS):
        return url
    return head + "".join(url[found.end() :].split())
