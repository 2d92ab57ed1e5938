"""Where certificates of authorities are: kept from the tests, and told to programs that ask other machines."""

import os

AUTHORITIES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""The variables; KEPT before the name is what it was for programs that ask other machines."""
KEPT = "TESTS_KEPT_"


def hide_authorities() -> None:
    """There are none for clients from now on: each would take 20 ms to read them all."""
    for name in AUTHORITIES:
        os.environ.setdefault(KEPT + name, os.environ.pop(name, ""))  # once, for the processes of pytest-xdist, too
    os.environ["SSL_CERT_DIR"] = os.path.dirname(__file__)
