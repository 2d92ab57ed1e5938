"""Doubles of the providers that are known, on real sockets, and what the gateway does with them."""
