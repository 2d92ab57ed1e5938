"""Stripe as far as we use it: a server of ours on a real socket, and events signed as Stripe signs them."""

import hmac
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import orjson

SECRET_KEY = "sk_test_of_this_suite"
WEBHOOK_SECRET = "whsec_of_this_suite"
_numbers = count(1)


@dataclass
class Asked:
    """One call that was received, its form flat: `line_items[0][quantity]`."""

    path: str
    form: dict[str, str]
    idempotency_key: str | None


@dataclass
class FakeStripe:
    """`failure` is a status and error object that every call is answered; while `gate` is clear, answers wait.

    `sessions` are the checkout sessions made, by the idempotency key under which each was asked for.
    """

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    customers: set[str] = field(default_factory=set)
    sessions: dict[str | None, str] = field(default_factory=dict)
    failure: tuple[int, dict[str, Any]] | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    has_arrived: threading.Event = field(default_factory=threading.Event)
    _answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def forget(self) -> None:
        """Be as it was at first, but know the customers."""
        self.asked.clear()
        self.sessions.clear()
        self.failure = None
        self.gate.set()
        self.has_arrived.clear()

    def asked_for(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path == path]

    def answer(self, asked: Asked, authorization: str | None) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.asked.append(asked)
            done = self._done(asked, authorization)
        self.has_arrived.set()
        self.gate.wait()
        return done

    def _done(self, asked: Asked, authorization: str | None) -> tuple[int, dict[str, Any]]:
        if authorization != f"Bearer {SECRET_KEY}":
            return 401, {"error": {"type": "invalid_request_error", "message": "Invalid API Key provided"}}
        if self.failure is not None:
            return self.failure
        if asked.idempotency_key in self._answers:
            return 200, self._answers[asked.idempotency_key]
        customer = asked.form.get("customer")
        if customer is not None and customer not in self.customers:
            error = {"type": "invalid_request_error", "code": "resource_missing", "param": "customer"}
            return 400, {"error": error | {"message": f"No such customer: '{customer}'"}}
        made = self._made(asked.path)
        if asked.path == "/v1/checkout/sessions":
            self.sessions[asked.idempotency_key] = made["id"]
        if asked.idempotency_key is not None:
            self._answers[asked.idempotency_key] = made
        return 200, made

    def _made(self, path: str) -> dict[str, Any]:
        number = next(_numbers)
        if path == "/v1/customers":
            self.customers.add(f"cus_{number}")
            return {"id": f"cus_{number}", "object": "customer"}
        if path == "/v1/checkout/sessions":
            url = f"https://checkout.stripe.test/c/{number}"
            return {"id": f"cs_{number}", "object": "checkout.session", "url": url, "expires_at": 1_900_000_000}
        assert path == "/v1/billing_portal/sessions"
        url = f"https://billing.stripe.test/p/{number}"
        return {"id": f"bps_{number}", "object": "billing_portal.session", "url": url}


@contextmanager
def fake_stripe() -> Iterator[FakeStripe]:
    """Serve on a free port of 127.0.0.1, from a thread."""
    stripe = FakeStripe()
    stripe.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["content-length"])).decode()
            asked = Asked(self.path, dict(parse_qsl(form)), self.headers["idempotency-key"])
            status, value = stripe.answer(asked, self.headers["authorization"])
            body = orjson.dumps(value)
            try:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.send_header("request-id", "req_of_stripe")
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                pass  # whoever asked has given up

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # so that closing waits for every answer
    stripe.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield stripe
    finally:
        stripe.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


def settings_of(stripe: FakeStripe, **more: Any) -> dict[str, Any]:
    """The `stripe` section for a gateway that takes this one for Stripe."""
    return {"secret_key": SECRET_KEY, "webhook_secret": WEBHOOK_SECRET, "api_base": stripe.url} | more


def bytes_of(folder: Path) -> bytes:
    """Everything that is stored in a folder."""
    return b"".join(file.read_bytes() for file in folder.iterdir())


# Events


def event(kind: str, stated: dict[str, Any], *, id: str | None = None) -> bytes:
    """An event's body with the fields that Stripe puts around what it states."""
    envelope = {"id": id or f"evt_{next(_numbers)}", "object": "event", "api_version": "2026-10-28.endive"}
    return orjson.dumps(envelope | {"created": 1, "livemode": False, "type": kind, "data": {"object": stated}})


def session(account_id: str | None, cents: int, *, payment: str = "pi_1", status: str = "paid") -> dict[str, Any]:
    return {
        "id": f"cs_of_{payment}",
        "object": "checkout.session",
        "mode": "payment",
        "payment_status": status,
        "payment_intent": payment,
        "currency": "usd",
        "amount_total": cents,
        "client_reference_id": account_id,
        "metadata": {} if account_id is None else {"gateway_account_id": account_id},
    }


def refunded_charge(cents_in_all: int, *, payment: str = "pi_1") -> dict[str, Any]:
    return {
        "id": f"ch_of_{payment}",
        "object": "charge",
        "payment_intent": payment,
        "currency": "usd",
        "amount_refunded": cents_in_all,
    }


def dispute(cents: int, status: str, *, payment: str = "pi_1", id: str = "dp_1") -> dict[str, Any]:
    return {
        "id": id,
        "object": "dispute",
        "payment_intent": payment,
        "currency": "usd",
        "amount": cents,
        "status": status,
    }


def signed(body: bytes, *, secret: str = WEBHOOK_SECRET, at_s: int | None = None) -> str:
    """The Stripe-Signature header: https://docs.stripe.com/webhooks#verify-manually."""
    at_s = int(time.time()) if at_s is None else at_s
    return f"t={at_s},v1={hmac.new(secret.encode(), b'%d.' % at_s + body, sha256).hexdigest()}"
