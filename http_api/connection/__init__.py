"""The socket of a client: HTTP/1.1 on it, and one exchange after another."""

from http_api.connection.acceptor import Acceptor
from http_api.connection.census import Census
from http_api.connection.connection import Bounds, Connection

__all__ = ["Acceptor", "Bounds", "Census", "Connection"]
