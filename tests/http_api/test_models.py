"""A model as its callers are told of it."""

import orjson

from http_api.models import model_object
from http_api.operations import written
from mcp_gateway.core.catalog import build_catalog
from mcp_gateway.core.config import ModelSettings, PricingSettings


def test_a_listed_model_names_prices_exactly_and_no_backend() -> None:
    pricing = PricingSettings(prompt="0.00000005", completion="0.00000015")
    entry = ModelSettings(id="pub/tiny", backend_model="org/tiny", pricing=pricing)
    (model,) = build_catalog([entry], {}, publish_discovered=False).values()
    row = orjson.loads(written(model_object(model)))
    assert row["pricing"] == {"prompt": "0.00000005", "completion": "0.00000015"}
    assert "org/tiny" not in str(row)
