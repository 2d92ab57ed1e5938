"""/auth/oidc: people who sign in with a browser at the issuer, and come back with a session."""

from http_api.middleware.cookies import Cookie
from http_api.operations import Answered, AnswerHeader, Asked, Nothing, Told
from http_api.people import NOT_STORED, count_by_address, opened_from
from http_api.query import AnyQuery, Query
from mcp_gateway.core.identity.oidc.arrivals import Arrivals
from mcp_gateway.core.identity.oidc.browser_sign_in import BroughtBack, BrowserSignIn
from mcp_gateway.core.identity.sign_in import SignIn
from mcp_gateway.core.limits.sign_ins import SignIns

LOCATION = AnswerHeader("Location", "string", "Where the browser goes next.")


class StartQuery(Query):
    """A path of the gateway to go on to then; anything else leads to the console."""

    next: str = ""


class CallbackQuery(AnyQuery):
    """What a browser brings back; issuers say more than this, each in its own way."""

    state: str | None = None
    iss: str | None = None
    code: str | None = None
    error: str | None = None


class RedirectObject(Told):
    """The same address as in the header."""

    location: str


class IssuerSignIn:
    """`flow_cookie` is what a browser keeps in between, `cookie` its session."""

    def __init__(
        self,
        browser: BrowserSignIn,
        arrivals: Arrivals,
        sign_in: SignIn,
        sign_ins: SignIns,
        *,
        cookie: Cookie,
        flow_cookie: Cookie,
    ) -> None:
        self._browser = browser
        self._arrivals = arrivals
        self._sign_in = sign_in
        self._sign_ins = sign_ins
        self._cookie = cookie
        self._flow_cookie = flow_cookie

    async def start(self, asked: Asked[StartQuery, Nothing]) -> Answered[RedirectObject]:
        begun = await self._browser.begin(asked.query.next)
        return _led_to(begun.address, self._flow_cookie.of(begun.flow))

    async def callback(self, asked: Asked[CallbackQuery, Nothing]) -> Answered[RedirectObject]:
        count_by_address(self._sign_ins, asked)  # before the issuer is asked, of whom others ask, too
        kept, query = self._flow_cookie.value_in(asked.context.sent), asked.query
        came = await self._browser.finish(kept, BroughtBack(query.state, query.iss, query.code, query.error))
        person = await self._arrivals.person_of(came.claims, newcomers_refusal=asked.context.region_refusal)
        signed = await self._sign_in.open_session(person, **opened_from(asked), signed_in_by="issuer")
        return _led_to(came.address, self._cookie.of(signed.cookie), self._flow_cookie.cleared)


def _led_to(address: str, *cookies: tuple[bytes, bytes]) -> Answered[RedirectObject]:
    headers = ((b"location", address.encode()), *cookies, NOT_STORED)
    return Answered(RedirectObject(location=address), headers=headers)
