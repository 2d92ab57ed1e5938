"""The certified `oidc-provider` as a program, and a person in a browser who fills its forms."""

import base64
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import httpx2
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.clients.installed import INSTALLED, NODE, PROGRAMS, environment
from tests.patience import PATIENCE_S

PROGRAM = PROGRAMS / "oidc_provider.mjs"
CLIENT_ID, CLIENT_SECRET = "gateway", "a-secret:of/32+characters,or%more"
SCOPES = ("inference", "read", "billing", "manage")
MOST_STEPS = 20
"""Pages and redirects of one sign-in."""
_MOVED = (302, 303)


class OidcProvider(NamedTuple):
    """A provider that serves at `issuer`; who starts another one at its port finds the same clients and no sessions."""

    issuer: str

    @property
    def port(self) -> int:
        return urlsplit(self.issuer).port or 0

    def access_token(self, http: httpx2.Client, resource: str, scope: str = " ".join(SCOPES)) -> str:
        """What a program gets for itself (RFC 6749, 4.4), for one resource."""
        asked = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
        answer = http.post(f"{self.issuer}/token", data=asked, auth=(CLIENT_ID, quote(CLIENT_SECRET, safe="")))
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token


def new_key(key_id: str) -> dict[str, str]:
    """A private key, as a provider is told it."""
    numbers = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_numbers()
    public = numbers.public_numbers
    parts = {
        "n": public.n, "e": public.e, "d": numbers.d, "p": numbers.p, "q": numbers.q,
        "dp": numbers.dmp1, "dq": numbers.dmq1, "qi": numbers.iqmp,
    }  # fmt: skip
    written = {name: _base64url(number) for name, number in parts.items()}
    return {"kty": "RSA", "kid": key_id, "use": "sig", "alg": "RS256"} | written


@contextmanager
def served_oidc_provider(
    *redirect_uris: str, keys: Sequence[Mapping[str, str]], port: int = 0, claims: Mapping[str, Any] | None = None
) -> Iterator[OidcProvider]:
    """With one client, whose browsers come back to `redirect_uris`; tokens are signed by the first of the keys.

    A start at the same port with another list of keys is a rotation. `claims` are added to what it says of everybody.
    """
    assert NODE.exists(), "run `make test-clients`: it installs what is tried here"
    client = {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "redirect_uris": redirect_uris,
        "grant_types": ["authorization_code", "refresh_token", "client_credentials"],
        "response_types": ["code"],
    }
    told = {"port": port, "keys": keys, "clients": [client], "scopes": SCOPES, "claims": claims or {}}
    with (
        PROGRAM.open() as code,
        subprocess.Popen(
            [NODE, "--input-type=module", "-", json.dumps(told)],
            stdin=code,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # where it warns that its pages are for development
            text=True,
            cwd=INSTALLED,
            env=environment(),
        ) as process,
    ):
        try:
            assert process.stdout is not None
            issuer = process.stdout.readline().strip()
            assert issuer, "the provider did not start"
            yield OidcProvider(issuer)
        finally:
            process.terminate()


class Browser:
    """A person's browser: keeps cookies, follows redirects, and fills the provider's forms."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self.http = httpx2.Client(timeout=PATIENCE_S)

    def sign_in(self, address: str, name: str) -> httpx2.Response:
        """Begin at `address`, sign in and consent at the provider; the first page that is not of the provider's, or the
        redirect there where nobody serves it.
        """
        return self._outside(self.http.get(address), name)

    def cancel(self, address: str) -> httpx2.Response:
        """The same, but refuse at the first page."""
        page = self._last_of(self.http.get(address))
        abort = re.search(r'href="([^"]*/abort)"', page.text)
        assert abort is not None, page.text
        return self._last_of(self.http.get(page.url.join(abort[1])))

    def _outside(self, answer: httpx2.Response, name: str) -> httpx2.Response:
        for _ in range(MOST_STEPS):
            page = self._last_of(answer)
            if page.status_code in _MOVED or not str(page.url).startswith(self._issuer):
                return page
            form = _Form(page.text)
            answer = self.http.post(page.url.join(form.action), data=form.filled(login=name, password="any"))
        raise AssertionError("the provider asks for ever")

    def _last_of(self, answer: httpx2.Response) -> httpx2.Response:
        """The answer at the end of its redirects, or the redirect to an address that nobody serves."""
        for _ in range(MOST_STEPS):
            if answer.status_code not in _MOVED:
                return answer
            try:
                answer = self.http.get(answer.url.join(answer.headers["location"]))
            except httpx2.ConnectError:
                return answer
        raise AssertionError("there is no end to the redirects")


class _Form(HTMLParser):
    """The first form of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action = ""
        self._fields: dict[str, str] = {}
        self.feed(page)
        assert self.action, page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self.action = self.action or given.get("action") or ""
        elif tag == "input" and (name := given.get("name")):
            self._fields[name] = given.get("value") or ""

    def filled(self, **written: str) -> dict[str, str]:
        """What is hidden as it is, and what a person writes."""
        return {name: written.get(name, value) for name, value in self._fields.items()}


def _base64url(number: int) -> str:
    whole = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(whole).rstrip(b"=").decode()
