"""Who carries out every write and answers every read that there is."""

from mcp_gateway.core.store.sql import models, requests

EXECUTORS = requests.EXECUTORS | models.EXECUTORS
