"""A clock that stands still unless a test moves it."""


class MsClock:
    """Unix milliseconds."""

    def __init__(self) -> None:
        self.now_ms = 86_400_000 * 20_000

    def __call__(self) -> int:
        return self.now_ms
