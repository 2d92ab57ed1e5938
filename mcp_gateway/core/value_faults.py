"""Words for a value that pydantic refuses, whichever door it came by: what it must be, and nothing of what was sent."""

_REASONS = {
    "missing": "is missing",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
}
"""By the kinds of pydantic's errors."""


def reason(kind: str, said: str) -> str:
    """Of an error of that kind, with what pydantic said: of bounds and of choices it tells which there are."""
    _, _, wanted = said.partition(" should ")
    return _REASONS.get(kind) or (f"must {wanted}" if wanted else said.removeprefix("Value error, "))
