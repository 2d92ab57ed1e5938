"""Who carries out every write and answers every read that there is."""

from mcp_gateway.core.store.sql import accounts, answers, keys, models, requests

EXECUTORS = accounts.EXECUTORS | keys.EXECUTORS | answers.EXECUTORS | requests.EXECUTORS | models.EXECUTORS
