"""Which tokens are the issuer's: by keys that it changes, while it is asked rarely, and while it cannot be asked."""

import asyncio
import base64
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import jwt
import orjson
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.oidc.issuer import ACCESS_TOKEN_TYPES, AT_JWT_ONLY, ID_TOKEN_TYPES, Issuer, Verified
from mcp_gateway.core.identity.oidc.issuer_http import IssuerHttp
from mcp_gateway.core.identity.oidc.issuer_keys import keys_in
from tests.cases import each
from tests.clocks import MsClock
from tests.fake_issuer import FakeIssuer, SigningPair, elliptic_pair, rsa_pair
from tests.patience import eventually

OURS = "https://gateway.test/v1"
JWKS = "/jwks"


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeIssuer]:
    async with FakeIssuer().serving() as fake:
        yield fake


@pytest.fixture
def now() -> MsClock:
    """The clock that the gateway has; a fake issuer has the system's."""
    clock = MsClock()
    clock.now_ms = int(time.time() * 1000)
    return clock


@pytest_asyncio.fixture
async def issuer(fake: FakeIssuer, now: MsClock) -> AsyncIterator[Issuer]:
    http = IssuerHttp()
    yield Issuer(fake.url, http, now_ms=now)
    await http.aclose()


async def verified(issuer: Issuer, token: str, **asked: Any) -> Verified:
    return await issuer.verify(token, **{"audiences": [OURS], "types": ACCESS_TOKEN_TYPES} | asked)


async def refusal(issuer: Issuer, token: str, **asked: Any) -> tuple[str, str]:
    with pytest.raises(GatewayError) as refused:
        await verified(issuer, token, **asked)
    return refused.value.code, refused.value.message


async def test_a_good_token_is_read_and_the_issuer_is_asked_once(fake: FakeIssuer, issuer: Issuer) -> None:
    for audience in (OURS, ["https://elsewhere.test", OURS]):
        told = await verified(issuer, fake.token(audience, role="owner"))
        assert (told.claims["sub"], told.claims["role"]) == ("ann", "owner")
    assert fake.asked == {"/.well-known/openid-configuration": 1, JWKS: 1}


def _altered(token: str) -> str:
    head, _, signature = token.split(".")
    return f"{head}.{_part({'sub': 'root'})}.{signature}"


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()


def _by_public_key(fake: FakeIssuer) -> str:
    """HS256, with what everybody can read as the secret."""
    public = fake.pair.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = _unsigned({"alg": "HS256", "kid": fake.pair.id}, fake.claims(aud=OURS))
    digest = hmac.new(public, signed.removesuffix(".").encode(), "sha256").digest()
    return signed + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _foreign(fake: FakeIssuer) -> str:
    other = elliptic_pair()
    return SigningPair(fake.pair.id, other.algorithm, other.private, other.public).sign(fake.claims(aud=OURS))


BAD: dict[str, tuple[Callable[[FakeIssuer], str], str]] = {
    "alg none": (lambda fake: _unsigned({"alg": "none", "kid": fake.pair.id}, fake.claims(aud=OURS)), "signature"),
    "signed with the public key": (_by_public_key, "signature"),
    "a foreign key under our id": (_foreign, "signature"),
    "an id that nobody knows": (lambda fake: elliptic_pair().sign(fake.claims(aud=OURS)), "key"),
    "altered": (lambda fake: _altered(fake.token(OURS)), "signature"),
    "for somebody else": (lambda fake: fake.token("https://elsewhere.test/v1"), "`aud`"),
    "for an address that begins alike": (lambda fake: fake.token(OURS + "/"), "`aud`"),
    "for nobody": (lambda fake: fake.token(None), "`aud`"),
    "of another issuer": (lambda fake: fake.token(OURS, iss="https://evil.test"), "`iss`"),
    "of the issuer with a slash": (lambda fake: fake.token(OURS, iss=fake.url + "/"), "`iss`"),
    "expired": (lambda fake: fake.token(OURS, exp=int(time.time()) - 61), "expired"),
    "not good yet": (lambda fake: fake.token(OURS, nbf=int(time.time()) + 120), "not good yet"),
    "issued in the future": (lambda fake: fake.token(OURS, iat=int(time.time()) + 120), "not good yet"),
    "without an end": (lambda fake: fake.token(OURS, exp=None), "`exp`"),
    "an end that is no time": (lambda fake: fake.token(OURS, exp="tomorrow"), "`exp`"),
    "an end beyond all times": (lambda fake: fake.token(OURS, exp=1e300), "`exp`"),
    "a begin that is true": (lambda fake: fake.token(OURS, nbf=True), "`nbf`"),
    "of nobody": (lambda fake: fake.token(OURS, sub=""), "`sub`"),
    "of a number": (lambda fake: fake.pair.sign(fake.claims(aud=OURS) | {"sub": 7}), "wrong"),
    "an ID token": (lambda fake: fake.pair.sign(fake.claims(aud="gateway"), typ="JWT"), "`aud`"),
    "a logout token": (lambda fake: fake.pair.sign(fake.claims(aud=OURS), typ="logout+jwt"), "`typ`"),
    "a type that is none": (lambda fake: fake.pair.sign(fake.claims(aud=OURS), typ=["JWT"]), "`typ`"),
    "by another algorithm than its key's": (lambda fake: _with_head(fake, alg="ES384"), "signature"),
    "extensions that must be understood": (lambda fake: _with_head(fake, crit=["x"], x=1), "read"),
    "rubbish": (lambda fake: "eyJhbGciOiJub25lIn0", "read"),
    "a head without end": (lambda fake: _part({"alg": "ES256"})[:-1] + "W1tb" * 900 + ".e30.AA", "read"),
    "a head that leads far down": (lambda fake: "eyJhIjog" + _part([[]])[:1] * 2000 + ".e30.AA", "read"),
    "100 kB": (lambda fake: fake.token(OURS, more="x" * 75_000), "long"),
}  # fmt: skip


def _unsigned(head: dict[str, Any], claims: dict[str, Any]) -> str:
    return f"{_part(head)}.{_part(claims)}."


def _with_head(fake: FakeIssuer, **head: Any) -> str:
    written, claims, signature = fake.token(OURS).split(".")
    told = orjson.loads(base64.urlsafe_b64decode(written + "=" * (-len(written) % 4)))
    return f"{_part(told | head)}.{claims}.{signature}"


@each("kind", BAD)
async def test_a_bad_token_is_refused_in_words(fake: FakeIssuer, issuer: Issuer, kind: str) -> None:
    make, word = BAD[kind]
    code, message = await refusal(issuer, make(fake))
    assert code == ("expired_session" if kind == "expired" else "invalid_api_key")
    assert word in message


async def test_clocks_may_differ_by_a_minute(fake: FakeIssuer, issuer: Issuer, now: MsClock) -> None:
    now_s = now.now_ms // 1000
    told = await verified(issuer, fake.token(OURS, iat=now_s + 50, nbf=now_s + 50.5, exp=now_s - 50))
    assert told.expires_at_ms == (now_s - 50 + 60) * 1000


@each(("kind", "types", "is_good"), [
    ("at+jwt", AT_JWT_ONLY, True), ("application/AT+JWT", AT_JWT_ONLY, True), ("JWT", AT_JWT_ONLY, False),
    ("JWT", ACCESS_TOKEN_TYPES, True), ("at+jwt", ID_TOKEN_TYPES, False),
])  # fmt: skip
async def test_what_a_token_calls_itself_counts(
    fake: FakeIssuer, issuer: Issuer, kind: str, types: frozenset[str], is_good: bool
) -> None:
    token = fake.pair.sign(fake.claims(aud=OURS), typ=kind)
    if is_good:
        await verified(issuer, token, types=types)
    else:
        assert (await refusal(issuer, token, types=types))[0] == "invalid_api_key"


@each("algorithm", ["RS256", "PS512"])
async def test_a_key_that_names_no_algorithm_signs_by_those_of_its_kind(
    fake: FakeIssuer, issuer: Issuer, algorithm: str
) -> None:
    fake.pairs = [rsa_pair(algorithm=algorithm)]
    await issuer.read()
    await verified(issuer, fake.token(OURS))


async def test_a_token_that_names_no_key_is_signed_by_the_only_one(fake: FakeIssuer, issuer: Issuer) -> None:
    token = jwt.encode(fake.claims(aud=OURS), fake.pair.private, "ES256")
    await verified(issuer, token)
    fake.rotate()
    await issuer.read()
    assert (await refusal(issuer, token))[0] == "invalid_api_key"


async def test_keys_rotate(fake: FakeIssuer, issuer: Issuer) -> None:
    """The new one is good at its first use, though keys were read a moment ago; the old one until it is withdrawn."""
    old_pair, old = fake.pair, fake.token(OURS)
    key = (await verified(issuer, old)).key
    fake.rotate()
    assert fake.asked[JWKS] == 1
    await verified(issuer, fake.token(OURS))
    assert fake.asked[JWKS] == 2
    assert (await verified(issuer, old)).key is key
    withdrawn: list[int] = []
    issuer.on_withdrawn(lambda: withdrawn.append(1))
    await issuer.read()
    assert issuer.stands_by(key)
    assert withdrawn == []
    fake.withdraw(old_pair)
    await issuer.read()
    assert not issuer.stands_by(key)
    assert withdrawn == [1]
    assert (await refusal(issuer, old))[0] == "invalid_api_key"


async def test_another_key_under_the_same_id_takes_the_place_of_the_first(fake: FakeIssuer, issuer: Issuer) -> None:
    old = fake.token(OURS)
    key = (await verified(issuer, old)).key
    other = elliptic_pair()
    told = {**other.public, "kid": fake.pair.id}
    fake.pairs = [SigningPair(fake.pair.id, "ES256", other.private, told)]
    await issuer.read()
    assert not issuer.stands_by(key)
    await verified(issuer, fake.token(OURS))
    await refusal(issuer, old)


async def test_a_flood_of_unknown_keys_asks_once_in_ten_seconds(fake: FakeIssuer, issuer: Issuer, now: MsClock) -> None:
    await issuer.read()
    foreign = elliptic_pair()
    flood = [SigningPair(f"k{n}", "ES256", foreign.private, {}).sign(fake.claims(aud=OURS)) for n in range(200)]
    codes = await asyncio.gather(*(refusal(issuer, token) for token in flood))
    assert {code for code, _ in codes} == {"invalid_api_key"}
    assert fake.asked[JWKS] == 2
    now.now_ms += 9_999
    await refusal(issuer, flood[0])
    assert fake.asked[JWKS] == 2
    now.now_ms += 1
    await refusal(issuer, flood[0])
    assert fake.asked[JWKS] == 3


async def test_who_comes_while_keys_are_read_waits_for_that_and_asks_again_only_if_it_brought_nothing(
    fake: FakeIssuer, issuer: Issuer
) -> None:
    fake.gate.clear()
    reading = asyncio.ensure_future(issuer.read())
    waiting = [asyncio.ensure_future(verified(issuer, fake.token(OURS))) for _ in range(3)]
    waiting[0].cancel()
    await eventually(lambda: bool(fake.asked))
    fake.gate.set()
    assert await reading
    await asyncio.gather(*waiting[1:])
    assert fake.asked[JWKS] == 1


async def test_known_keys_go_on_while_the_issuer_is_away_and_its_return_is_noticed(
    fake: FakeIssuer, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mcp_gateway")
    token = fake.token(OURS)
    await verified(issuer, token)
    fake.is_absent = True
    for _ in range(2):
        assert not await issuer.read()
    await verified(issuer, token)
    assert (await issuer.metadata()).token_endpoint == f"{fake.url}/token"
    fake.is_absent = False
    assert await issuer.read()
    mine = [record.getMessage() for record in caplog.records if record.name.startswith("mcp_gateway")]
    assert [message.partition(fake.url)[2][:20] for message in mine] == [": " + fake.url[:18], " answers again"]


async def test_before_the_issuer_was_ever_reached_it_is_unavailable_and_asked_rarely(
    fake: FakeIssuer, issuer: Issuer, now: MsClock
) -> None:
    fake.is_absent = True
    for _ in range(3):
        assert (await refusal(issuer, fake.token(OURS)))[0] == "issuer_unavailable"
        with pytest.raises(GatewayError, match="issuer_unavailable"):
            await issuer.metadata()
    assert sum(fake.asked.values()) == 1
    fake.is_absent = False
    now.now_ms += 10_000
    assert (await issuer.metadata()).jwks_uri == f"{fake.url}/jwks"


@each("told", [
    {"issuer": "https://evil.test"}, {"issuer": None}, {"jwks_uri": None}, {"jwks_uri": "http://id.example.com/jwks"},
    {"jwks_uri": 5}, {"token_endpoint": "http://id.example.com/token"}, {"userinfo_endpoint": "file:///etc/passwd"},
])  # fmt: skip
async def test_what_an_issuer_must_not_say_of_itself(fake: FakeIssuer, issuer: Issuer, told: dict[str, Any]) -> None:
    fake.told = told
    assert not await issuer.read()
    assert (await refusal(issuer, fake.token(OURS)))[0] == "issuer_unavailable"


async def test_an_issuer_elsewhere_names_no_address_that_is_not_https(now: MsClock) -> None:
    class Http(IssuerHttp):
        async def get_json(self, url: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
            return {"issuer": "https://id.example.com", "jwks_uri": "http://127.0.0.1:9/keys"}

    http = Http()
    assert not await Issuer("https://id.example.com", http, now_ms=now).read()
    await http.aclose()


@each("key_set", [[], "keys", {}, {"keys": {}}, {"keys": [{}] * 201}, {"keys": [{"kty": "oct", "k": "x" * 1_100_000}]}])
async def test_what_is_no_key_set_changes_nothing(fake: FakeIssuer, issuer: Issuer, key_set: Any) -> None:
    token = fake.token(OURS)
    await verified(issuer, token)
    fake.key_set = key_set
    assert not await issuer.read()
    await verified(issuer, token)


async def test_an_issuer_that_withdraws_all_keys_is_believed(fake: FakeIssuer, issuer: Issuer) -> None:
    token = fake.token(OURS)
    await verified(issuer, token)
    fake.pairs = [fake.pair]
    fake.key_set = {"keys": []}
    assert await issuer.read()
    assert (await refusal(issuer, token))[0] == "invalid_api_key"


RSA = rsa_pair()
UNUSABLE: dict[str, dict[str, Any]] = {
    "for encryption": RSA.public | {"use": "enc"},
    "of a secret": {"kty": "oct", "k": "c2VjcmV0", "kid": "x"},
    "private": RSA.public | {"d": "AQAB"},
    "short": rsa_pair(1024).public,
    "no number": RSA.public | {"n": 5},
    "of an algorithm that it cannot sign by": RSA.public | {"alg": "HS256"},
    "of another kind's algorithm": RSA.public | {"alg": "ES256"},
    "of a curve that is not used": elliptic_pair().public | {"crv": "secp256k1"},
    "of no kind": RSA.public | {"kty": ["RSA"]},
    "with an id that is none": RSA.public | {"kid": 5},
}


@each("kind", UNUSABLE)
def test_a_key_that_cannot_be_used_is_passed_over(kind: str) -> None:
    found = keys_in({"keys": [UNUSABLE[kind], "no key", RSA.public]}, {})
    assert list(found) == [RSA.id]
    assert found[RSA.id].public_key.key_size == 2048


async def test_watch_reads_again_every_few_minutes_and_sooner_while_it_fails(
    fake: FakeIssuer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []

    async def rest(seconds: float) -> None:
        rests.append(seconds)
        fake.is_absent = len(rests) == 1
        if len(rests) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr("mcp_gateway.core.identity.oidc.issuer.asyncio.sleep", rest)
    with contextlib.suppress(asyncio.CancelledError):
        await issuer.watch()
    assert rests == [300.0, 15.0, 300.0]


async def test_an_issuer_that_is_not_there_is_told_in_the_log(caplog: pytest.LogCaptureFixture, now: MsClock) -> None:
    http = IssuerHttp(timeout_s=5)
    assert not await Issuer("http://127.0.0.1:1", http, now_ms=now).read()
    await http.aclose()
    assert "cannot be reached: ConnectError" in caplog.text


async def test_an_issuer_that_does_not_answer_is_given_up(
    fake: FakeIssuer, now: MsClock, caplog: pytest.LogCaptureFixture
) -> None:
    fake.gate.clear()
    http = IssuerHttp(timeout_s=0.05)
    assert not await Issuer(fake.url, http, now_ms=now).read()
    await http.aclose()
    assert fake.url in caplog.text
