"""How each model did in the last day, for whoever chooses one. It tells of all callers together, and of no backend."""

from typing import NamedTuple

from mcp_gateway.core.observe.activity import Activity
from mcp_gateway.core.observe.status_board import StatusBoard, model_component, up_percent


class ModelDay(NamedTuple):
    """The median of the latest streams; the share of the minutes looked at in which it was not down, rounded down.

    None for what nobody knows.
    """

    first_token_ms: int | None
    up_percent: float | None


class ModelDays:
    def __init__(self, activity: Activity, board: StatusBoard) -> None:
        self._activity = activity
        self._board = board

    def of(self, model_id: str) -> ModelDay:
        up_share = self._board.late_up_share_of(model_component(model_id))
        return ModelDay(self._activity.first_token_ms(model_id), up_percent(up_share))
