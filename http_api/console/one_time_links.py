"""Links with a secret that works once, which stand in one answer."""

from http_api.console.serving import Shown
from http_api.operations import Answered
from http_api.people import OneTimeSecretObject


class OneTimeLinks:
    """`base_url` begins them."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    def register(self, told: Answered[OneTimeSecretObject], back: str) -> Shown:
        return self._link("An invitation", "register", told, back)

    def password(self, told: Answered[OneTimeSecretObject], back: str) -> Shown:
        return self._link("A link to choose a new password", "password", told, back)

    def _link(self, title: str, page: str, told: Answered[OneTimeSecretObject], back: str) -> Shown:
        """`back` is the page that is looked at next."""
        secret = told.answer
        assert isinstance(secret, OneTimeSecretObject)
        url = f"{self._base_url}/console/{page}?token={secret.token}"
        return Shown("account_link.html", {"title": title, "url": url, "expires_at": secret.expires_at, "back": back})
