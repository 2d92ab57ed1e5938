"""The ids of answers and of their requests, as clients send them back: `chatcmpl-req_...`, `req_...`."""

import re

_REQUEST_ID = re.compile(r"req_[0-9a-f]{8,64}(?:-(?:[2-9]|[1-9][0-9]{1,3}))?")


def request_id_in(answer_id: str) -> str | None:
    """The request's id, which stands within that of its answer, too; None where there is none."""
    found = _REQUEST_ID.search(answer_id)
    return None if found is None else found[0]
