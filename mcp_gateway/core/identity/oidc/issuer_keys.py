"""The keys that an issuer signs by, as its key set (JWKS, RFC 7517) tells them: which are usable, and for what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_MOST_KEYS = 200
_LEAST_RSA_BITS = 2048
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_BY_KIND: dict[tuple[str, str | None], tuple[str, ...]] = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""What a key may sign by that does not say it. Keys that both sides know (`oct`) are none that an issuer tells."""


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A public key; `told` is what the issuer says of it."""

    id: str | None
    algorithms: tuple[str, ...]
    public_key: Any = field(compare=False, repr=False)
    told: Mapping[str, Any] = field(repr=False)


def keys_in(key_set: Mapping[str, Any], known: Mapping[str | None, IssuerKey]) -> dict[str | None, IssuerKey]:
    """By their ids; what is none that is used here is passed over, and one of `known` stays the same object.

    Raises ValueError for what is no key set.
    """
    listed = key_set.get("keys")
    if not isinstance(listed, list) or len(listed) > _MOST_KEYS:
        raise ValueError(f"tells no key set of at most {_MOST_KEYS} keys")
    found: dict[str | None, IssuerKey] = {}
    for told in listed:
        if isinstance(told, dict) and (key := _key_of(told)) is not None:
            before = known.get(key.id)
            found.setdefault(key.id, before if before is not None and before.told == key.told else key)
    return found


def _key_of(told: dict[str, Any]) -> IssuerKey | None:
    import jwt  # noqa: PLC0415 - takes 0.1 s to import

    key_id, kind, curve = told.get("kid"), told.get("kty"), told.get("crv")
    if not isinstance(key_id, str | None) or not isinstance(kind, str) or not isinstance(curve, str | None):
        return None
    algorithms = _BY_KIND.get((kind, curve), ())
    if (named := told.get("alg")) is not None:
        algorithms = tuple(one for one in algorithms if one == named)
    if not algorithms or told.get("use") not in ("sig", None) or "d" in told:  # a private key that all may read
        return None
    try:
        public_key = jwt.PyJWK(told, algorithms[0]).key
    except jwt.PyJWTError:
        return None
    if kind == "RSA" and public_key.key_size < _LEAST_RSA_BITS:
        return None
    return IssuerKey(key_id, algorithms, public_key, told)
