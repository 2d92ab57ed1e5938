"""What a translation has that asks for an answer in one piece as one, cuts no stream, and has nobody to count."""

from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.record import EndedBy
from mcp_gateway.core.surfaces.surface import Ask, Collecting
from mcp_gateway.core.surfaces.usage import Usage


class OnePiece:
    """To be inherited. Of a stream that tells its usage at its end, no more is known where it is left."""

    tells_running_usage = False

    def counting(self, ask: Ask, backend_model: str) -> Counting | None:
        return None

    def can_collect(self, ask: Ask) -> bool:
        return False

    def can_be_cut(self, ask: Ask) -> bool:
        return False

    def cut(self, first_frame: bytes, usage: Usage | None, ended_by: EndedBy) -> bytes:
        raise NotImplementedError  # see `can_be_cut`

    def collecting(self, ask: Ask, public_model: str, max_bytes: int) -> Collecting:
        raise NotImplementedError  # see `can_collect`
