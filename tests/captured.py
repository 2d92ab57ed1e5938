"""The captured exchanges of a real vLLM server, as values."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "captures" / "vllm-0.32.0"
_REQUEST, _HEAD, _BODY, _NOTES = (
    "### REQUEST\n",
    "### RESPONSE HEAD\n",
    "### RESPONSE BODY (chunked framing removed)\n",
    "\n\n### NOTES",
)


@dataclass(frozen=True, slots=True)
class Capture:
    """One exchange: what was asked and what came back; bodies as bytes."""

    case: str
    method: str
    path: str
    request_headers: tuple[tuple[bytes, bytes], ...]
    request_body: bytes
    status: int
    content_type: str
    body: bytes

    @property
    def is_chat(self) -> bool:
        return self.method == "POST" and self.path.partition("?")[0] == "/v1/chat/completions"

    @property
    def is_request_whole(self) -> bool:
        """Whether the request stands there as it was sent; long and oddly framed ones do not."""
        return dict(self.request_headers).get(b"content-length", b"0") == b"%d" % len(self.request_body)

    @property
    def is_stream(self) -> bool:
        return self.content_type.startswith("text/event-stream")


@cache
def captures() -> tuple[Capture, ...]:
    """All exchanges with a request line and an HTTP answer, by case."""
    read = (_read(path) for path in sorted(FOLDER.glob("*.txt")))
    return tuple(capture for capture in read if capture is not None)


def captured(case: str) -> Capture:
    return next(capture for capture in captures() if capture.case == case)


def _read(path: Path) -> Capture | None:
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    if not text.startswith(_REQUEST) or _HEAD not in text or _BODY not in text:
        return None
    request, _, rest = text.removeprefix(_REQUEST).partition(_HEAD)
    head, _, rest = rest.partition(_BODY)
    body = rest.rpartition(_NOTES)[0] if _NOTES in rest else rest
    request_head, _, request_body = request.partition("\n\n")
    request_line, *request_lines = request_head.split("\n")
    words = request_line.split()
    status_line, *header_lines = head.strip().split("\n")
    if len(words) < 2 or len(status_line.split()) < 2:
        return None
    headers = dict(map(_header, header_lines))
    return Capture(
        case=path.stem,
        method=words[0],
        path=words[1],
        request_headers=tuple((name.encode(), value.encode()) for name, value in map(_header, request_lines)),
        request_body=request_body.strip().encode("utf-8", "surrogateescape"),
        status=int(status_line.split()[1]),
        content_type=headers.get("content-type", ""),
        body=body.encode("utf-8", "surrogateescape"),
    )


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()
