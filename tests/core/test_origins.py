"""Which browser origins may call either door, and which the MCP door alone."""

from mcp_gateway.core.config import Settings
from mcp_gateway.core.origins import Origins
from tests.cases import each

SETTINGS = {
    "public_url": "https://GW.example.com/under/a/path",
    "cors_origins": ("https://App.example.com:443", "http://dev.example.com:80", "tauri://app", "http://10.0.0.7:3000"),
    "allowed_origins": "https://also.example.com, https://app.example.com:8443",
}
NAMED = [
    "https://gw.example.com", "https://app.example.com", "http://dev.example.com", "tauri://app", "http://10.0.0.7:3000",
    "https://also.example.com", "https://app.example.com:8443",
]  # fmt: skip
LOOPBACK = [
    "http://localhost",
    "http://localhost:6274",
    "https://127.0.0.1:1",
    "http://[::1]:5173",
    "tauri://localhost",
]
OTHERS = [
    "null", "", "://", "https://evil.example.com", "http://app.example.com", "https://app.example.com.evil.io",
    "https://app.example.com:9", "https://x.app.example.com", "http://localhost.evil.io", "http://10.0.0.7", "*",
]  # fmt: skip


@each("origin", NAMED)
def test_named_origins_may_call_both_doors(origin: str) -> None:
    origins = Origins(Settings.model_validate(SETTINGS))
    assert origins.admits(origin.encode())
    assert origins.admits_to_mcp(origin.encode())


@each("origin", LOOPBACK)
def test_pages_on_loopback_may_call_mcp_alone(origin: str) -> None:
    for settings in (SETTINGS, {}):
        origins = Origins(Settings.model_validate(settings))
        assert not origins.admits(origin.encode())
        assert origins.admits_to_mcp(origin.encode())


@each("origin", OTHERS)
def test_others_may_call_neither(origin: str) -> None:
    for settings in (SETTINGS, {}):
        assert not Origins(Settings.model_validate(settings)).admits_to_mcp(origin.encode())


@each("origin", NAMED + LOOPBACK + OTHERS)
def test_any_origin_can_be_let_in(origin: str) -> None:
    assert Origins(Settings(cors_origins=("*",))).admits(origin.encode())
