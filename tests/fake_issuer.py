"""An issuer of OpenID Connect as far as we use one: a server of ours on loopback, whose keys a test holds."""

import asyncio
import base64
import contextlib
import hashlib
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.listening import served_by_uvicorn

CLIENT_ID, CLIENT_SECRET = "gateway", "a:secret/of+this%suite"
LIFETIME_S = 300
_numbers = count(1)


@dataclass(frozen=True)
class SigningPair:
    """A key that signs; `public` is what the key set says of it."""

    id: str
    algorithm: str
    private: Any
    public: dict[str, Any]

    def sign(self, claims: dict[str, Any], **head: Any) -> str:
        algorithm = head.pop("alg", self.algorithm)
        return jwt.encode(claims, self.private, algorithm=algorithm, headers={"kid": self.id, "typ": "at+jwt"} | head)


def elliptic_pair() -> SigningPair:
    private, key_id = ec.generate_private_key(ec.SECP256R1()), f"ec-{next(_numbers)}"
    told = jwt.algorithms.ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    return SigningPair(key_id, "ES256", private, told | {"kid": key_id, "use": "sig", "alg": "ES256"})


def rsa_pair(bits: int = 2048, algorithm: str = "RS256") -> SigningPair:
    """It says of no algorithm, as keys of some issuers."""
    private, key_id = rsa.generate_private_key(65537, bits), f"rsa-{next(_numbers)}"
    told = jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    return SigningPair(key_id, algorithm, private, told | {"kid": key_id, "use": "sig"})


@dataclass
class Code:
    """What an authorization has granted, once."""

    asked: dict[str, str]
    claims: dict[str, Any]


@dataclass
class FakeIssuer:
    """`asked` counts the requests for each path. While it `is_absent`, all it answers is 503; while `gate` is clear,
    answers wait.

    Whoever signs in is the person of `person`, and consents unless `refusal` says why not.
    """

    url: str = ""
    pairs: list[SigningPair] = field(default_factory=lambda: [elliptic_pair()])
    asked: Counter[str] = field(default_factory=Counter)
    is_absent: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    told: dict[str, Any] = field(default_factory=dict)
    """In place of what it says of itself."""
    key_set: Any = None
    """In place of its keys."""
    person: dict[str, Any] = field(default_factory=lambda: {"sub": "ann", "email": "ann@example.com"})
    """The claims of whoever signs in; `email` and what belongs to it are told by userinfo alone."""
    id_claims: dict[str, Any] = field(default_factory=dict)
    """In place of what ID tokens say otherwise; None leaves a claim out."""
    granted: tuple[int, dict[str, Any]] | None = None
    """In place of what the token endpoint answers."""
    refusal: str | None = None
    redirects: set[str] = field(default_factory=set)
    """The addresses that the gateway's client may have a browser led back to; any while it is empty."""
    codes: dict[str, Code] = field(default_factory=dict)
    clients: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Those that have registered themselves."""

    # Keys and tokens

    @property
    def pair(self) -> SigningPair:
        """The one that signs: the latest."""
        return self.pairs[-1]

    def rotate(self) -> SigningPair:
        """Sign by another key from now on; the old ones stay."""
        self.pairs.append(elliptic_pair())
        return self.pair

    def withdraw(self, pair: SigningPair) -> None:
        self.pairs.remove(pair)

    def claims(self, **claims: Any) -> dict[str, Any]:
        """Of a token that is good now; None leaves a claim out."""
        now_s = int(time.time())
        usual = {"iss": self.url, "sub": "ann", "iat": now_s, "exp": now_s + LIFETIME_S, "jti": str(next(_numbers))}
        return {name: value for name, value in (usual | claims).items() if value is not None}

    def token(self, aud: Any, **claims: Any) -> str:
        return self.pair.sign(self.claims(aud=aud, **claims))

    # Served

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeIssuer"]:
        self.gate.set()
        routes = [
            Route("/.well-known/openid-configuration", self._describe),
            Route("/.well-known/oauth-authorization-server", self._describe),
            Route("/jwks", self._tell_keys),
            Route("/authorize", self._authorize),
            Route("/token", self._exchange, methods=["POST"]),
            Route("/userinfo", self._tell_person),
            Route("/register", self._register, methods=["POST"]),
        ]
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            async with served_by_uvicorn(Starlette(routes=routes), listening, lifespan="off"):
                try:
                    yield self
                finally:
                    self.gate.set()

    async def _answer(self, request: Request, body: Any, status: int = 200) -> Response:
        self.asked[request.url.path] += 1
        await self.gate.wait()
        return Response(status_code=503) if self.is_absent else JSONResponse(body, status)

    async def _describe(self, request: Request) -> Response:
        told = {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/jwks",
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "userinfo_endpoint": f"{self.url}/userinfo",
            "registration_endpoint": f"{self.url}/register",
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "none"],
            "authorization_response_iss_parameter_supported": True,
        }
        return await self._answer(request, told | self.told)

    async def _tell_keys(self, request: Request) -> Response:
        keys = {"keys": [pair.public for pair in self.pairs]}
        return await self._answer(request, keys if self.key_set is None else self.key_set)

    async def _authorize(self, request: Request) -> Response:
        """As if the person sat there and said yes, or no."""
        self.asked[request.url.path] += 1
        asked = dict(request.query_params)
        redirect, state = asked.get("redirect_uri", ""), {"state": asked.get("state", ""), "iss": self.url}
        allowed = self.clients.get(asked.get("client_id", ""), {}).get("redirect_uris", self.redirects)
        is_client = asked.get("client_id") in (CLIENT_ID, *self.clients)
        if not is_client or (allowed and redirect not in allowed) or asked.get("code_challenge_method") != "S256":
            return JSONResponse({"error": "invalid_request"}, 400)
        if self.refusal is not None:
            return RedirectResponse(f"{redirect}?{urlencode({'error': self.refusal} | state)}", 302)
        code = f"code-{next(_numbers)}"
        self.codes[code] = Code(asked, dict(self.person))
        return RedirectResponse(f"{redirect}?{urlencode({'code': code} | state)}", 302)

    async def _exchange(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        if self.granted is not None:
            return await self._answer(request, self.granted[1], self.granted[0])
        client_id, granted = self._client_of(request, form), self.codes.pop(form.get("code", ""), None)
        if client_id is None:
            return await self._answer(request, {"error": "invalid_client"}, 401)
        if granted is None or not _is_granted(granted.asked, form, client_id):
            return await self._answer(request, {"error": "invalid_grant"}, 400)
        sub = granted.claims["sub"]
        audience = granted.asked.get("resource", f"{self.url}/userinfo")
        access = self.token(audience, sub=sub, scope=granted.asked.get("scope", ""), client_id=client_id)
        answer = {"access_token": access, "token_type": "Bearer", "expires_in": LIFETIME_S}
        if "openid" in granted.asked.get("scope", "").split():
            usual = {"aud": client_id, "sub": sub, "nonce": granted.asked.get("nonce")}
            answer["id_token"] = self.pair.sign(self.claims(**usual | self.id_claims), typ="JWT")
        return await self._answer(request, answer)

    def _client_of(self, request: Request, form: dict[str, str]) -> str | None:
        """Who has shown that they are a client; one that registered itself has no secret."""
        kind, _, shown = request.headers.get("authorization", "").partition(" ")
        if kind == "Basic":
            client_id, _, secret = base64.b64decode(shown).decode().partition(":")
            is_right = (unquote(client_id), unquote(secret)) == (CLIENT_ID, CLIENT_SECRET)
            return CLIENT_ID if is_right else None
        if (form.get("client_id"), form.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET):
            return CLIENT_ID
        return form.get("client_id") if form.get("client_id") in self.clients else None

    async def _tell_person(self, request: Request) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        try:
            claims = jwt.decode(
                token, self.pair.private.public_key(), algorithms=["ES256"], options={"verify_aud": False}
            )
        except jwt.PyJWTError:
            return await self._answer(request, {"error": "invalid_token"}, 401)
        return await self._answer(request, {**self.person, "sub": self.told.get("sub", claims["sub"])})

    async def _register(self, request: Request) -> Response:
        asked = await request.json()
        client_id = f"client-{next(_numbers)}"
        self.clients[client_id] = asked
        return await self._answer(request, asked | {"client_id": client_id, "token_endpoint_auth_method": "none"}, 201)


def _is_granted(asked: dict[str, str], form: dict[str, str], client_id: str) -> bool:
    """Whether who redeems a code is who asked for it."""
    digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return (
        form.get("grant_type") == "authorization_code"
        and challenge == asked.get("code_challenge")
        and client_id == asked["client_id"]
        and form.get("redirect_uri") == asked["redirect_uri"]
    )
