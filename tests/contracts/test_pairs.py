"""Whatever dialects and surfaces there are stand in the contract's table, so that none is left out of it."""

import importlib
import pkgutil
from typing import get_args

from mcp_gateway.core import dialects
from mcp_gateway.core.dialects.dialect import Dialect
from mcp_gateway.core.dialects.openai import OpenAi
from mcp_gateway.core.record import SurfaceName
from tests.contracts.test_translations import PAIRS

HELD_ELSEWHERE: set[type] = {OpenAi}
"""By tests/providers, over doubles that differ, where nothing passes as it is."""


def dialects_there_are() -> set[type]:
    """Classes with all that a dialect has, but for its protocol."""
    modules = [
        importlib.import_module(f"{dialects.__name__}.{found.name}")
        for found in pkgutil.iter_modules(dialects.__path__)
    ]
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)} - {Dialect}
    methods = [name for name, value in vars(Dialect).items() if callable(value) and not name.startswith("_")]
    return {kind for kind in kinds if all(hasattr(kind, name) for name in methods)}


def test_every_dialect_is_held_to_the_contract_in_every_surface_that_it_translates() -> None:
    assert {type(pair.dialect) for pair in PAIRS} == dialects_there_are() - HELD_ELSEWHERE
    for dialect in {type(pair.dialect): pair.dialect for pair in PAIRS}.values():
        held = {pair.surface.name for pair in PAIRS if type(pair.dialect) is type(dialect)}
        assert held == dialect.translations.keys()


def test_every_surface_is_held_to_the_contract_in_some_dialect() -> None:
    assert {pair.surface.name for pair in PAIRS} == set(get_args(SurfaceName))
