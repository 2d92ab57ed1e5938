"""THE table of the console: the menu and the pages, each made of what the API's rows run."""

from collections.abc import Callable
from dataclasses import dataclass

from http_api.console.pages.account import ACCOUNT_PATH, OwnAccountPages
from http_api.console.pages.admin_accounts import AccountPages
from http_api.console.pages.admin_audit import AUDIT_PATH, AuditPages
from http_api.console.pages.admin_configuration import CONFIGURATION_PATH, PRICES_PATH, ConfigurationPages
from http_api.console.pages.admin_keys import ADMIN_KEYS_PATH, AdminKeyPages
from http_api.console.pages.admin_service import OVERVIEW_PATH, ServicePages
from http_api.console.pages.admin_users import USERS_PATH, UserPages
from http_api.console.pages.admin_wallet import AccountWalletPages
from http_api.console.pages.authorize import AuthorizePages
from http_api.console.pages.connect import CONNECT_PATH, ConnectPages
from http_api.console.pages.keys import ALL_KEYS_PATH, KEYS_PATH, KeyPages
from http_api.console.pages.models import MODELS_PATH, ModelPages
from http_api.console.pages.playground import PLAYGROUND_PATH, PlaygroundPages
from http_api.console.pages.requests import REQUESTS_PATH, RequestPages
from http_api.console.pages.sign_in import SignInPages
from http_api.console.pages.status import StatusPages
from http_api.console.pages.usage import USAGE_PATH, UsagePages
from http_api.console.pages.wallet import WALLET_PATH, WalletDoors, WalletPages
from http_api.console.pages_of import ACCOUNTS_PATH, PagesOf
from http_api.console.security import security_headers
from http_api.console.serving import Console
from http_api.console.static_files import STATIC_PATH, StaticFiles
from http_api.console.templates import MenuItem, Templates
from http_api.operations import AnyOperation
from http_api.table import Endpoints
from mcp_gateway.core.hosts import path_of
from mcp_gateway.core.identity.people import People
from mcp_gateway.core.identity.sign_in import Registration
from mcp_gateway.core.lifecycle import Lifecycle
from mcp_gateway.core.policy_links import PolicyLinks

_MENU = (
    MenuItem(KEYS_PATH, "API keys"),
    MenuItem(MODELS_PATH, "Models"),
    MenuItem(USAGE_PATH, "Usage"),
    MenuItem(REQUESTS_PATH, "Requests"),
    MenuItem(WALLET_PATH, "Wallet"),
    MenuItem(PLAYGROUND_PATH, "Playground"),
    MenuItem(CONNECT_PATH, "Connect"),
    MenuItem(ACCOUNT_PATH, "Account"),
)
_ADMIN_MENU = (
    MenuItem(OVERVIEW_PATH, "Overview"),
    MenuItem(ACCOUNTS_PATH, "Accounts"),
    MenuItem(USERS_PATH, "Users"),
    MenuItem(ALL_KEYS_PATH, "All keys"),
    MenuItem(PRICES_PATH, "Prices"),
    MenuItem(CONFIGURATION_PATH, "Configuration"),
    MenuItem(ADMIN_KEYS_PATH, "Administrators' keys"),
    MenuItem(AUDIT_PATH, "Audit log"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleParts:
    """What pages are told beside the endpoints."""

    registration: Callable[[], Registration | None]
    first_model: Callable[[], str]
    now_ms: Callable[[], int]
    base_url: str
    are_models_public: bool
    is_status_public: bool
    are_model_days_public: bool
    """Whether everybody is told how models did, signed in or not."""
    lifecycle: Lifecycle
    is_shared: Callable[[str], bool]
    """Of which addresses many readers may come."""
    takes_passwords: bool
    issuer_path: str | None
    """Where people sign in elsewhere, if they do."""
    issuer_name: str


def console_of(people: People, *, base_url: str, payment_pages: tuple[str, ...], links: PolicyLinks) -> Console:
    """What writes the pages; `payment_pages` are the origins at which forms of the wallet end."""
    templates = Templates(StaticFiles(), _MENU, _ADMIN_MENU, links, prefix=path_of(base_url))
    return Console(templates, people, security_headers(payment_pages))


def console_operations(run: Endpoints, parts: ConsoleParts, console: Console) -> list[AnyOperation]:
    """All rows of the console; none of them is in the document of the API."""
    templates, files = console.templates, console.templates.files
    own, each = PagesOf(), PagesOf(run.admin.of_account)
    keys, all_keys = (
        KeyPages(handlers, parts.now_ms, base_url=parts.base_url, first_model=parts.first_model)
        for handlers in (run.keys, run.admin.keys)
    )
    return [
        *SignInPages(
            run.people,
            parts.registration,
            takes_passwords=parts.takes_passwords,
            issuer_path=parts.issuer_path,
            issuer_name=parts.issuer_name,
        ).rows(console),
        *([] if run.oauth is None else AuthorizePages(run.oauth).rows(console)),
        *keys.rows(console),
        *ModelPages(run.models, are_public=parts.are_models_public, are_days_public=parts.are_model_days_public).rows(
            console
        ),
        *(row for pages in (own, each) for row in _history(pages, run, parts, templates, console)),
        *WalletPages(
            WalletDoors(run.billing, run.statements, run.topups, run.auto_topups, run.webhooks),
            parts.now_ms,
            base_url=parts.base_url,
        ).rows(console),
        *PlaygroundPages(run.models, base_url=parts.base_url).rows(console),
        *ConnectPages(run.keys, run.models, base_url=parts.base_url).rows(console),
        *(StatusPages(run.status, parts.lifecycle, parts.is_shared).rows(console) if parts.is_status_public else ()),
        *AccountPages(run.admin).rows(console),
        *AccountWalletPages(run.admin, run.billing, run.statements, parts.now_ms).rows(console),
        *all_keys.rows(console),
        *UserPages(run.admin.users, base_url=parts.base_url, takes_passwords=parts.takes_passwords).rows(console),
        *ServicePages(run.admin).rows(console),
        *ConfigurationPages(run.admin.configuration).rows(console),
        *AdminKeyPages(run.admin.admins).rows(console),
        *AuditPages(run.admin.audit).rows(console),
        *OwnAccountPages(
            run.people, run.attribution, base_url=parts.base_url, takes_passwords=parts.takes_passwords
        ).rows(console),
        console.file(STATIC_PATH, files.get),
        *console.unknown(),
    ]


def _history(
    pages: PagesOf, run: Endpoints, parts: ConsoleParts, templates: Templates, console: Console
) -> list[AnyOperation]:
    """Of what was asked for in the past."""
    return [
        *UsagePages(pages, run.usage, run.keys, run.people, parts.now_ms, at=templates.at).rows(console),
        *RequestPages(pages, run.requests, run.keys, run.limits, parts.now_ms).rows(console),
    ]
