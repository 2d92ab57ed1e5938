"""How many examples hypothesis tries where a test says so itself: its share of what the profile gives others."""

from hypothesis import settings


def examples(of_each_hundred: int) -> settings:
    """So many where other tests have a hundred, and fewer by as much where these have fewer."""
    assert settings.default is not None
    return settings(max_examples=max(1, of_each_hundred * settings.default.max_examples // 100))
