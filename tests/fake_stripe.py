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
from urllib.parse import parse_qsl, urlsplit

import orjson

_INTENTS = "/v1/payment_intents"
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

    `sessions` are the checkout sessions made, by the idempotency key under which each was asked for; `intents` the
    payments by their ids. `methods` says what becomes of a payment by one: a status, or the code it is declined with;
    what is not there succeeds. While `loses_answers`, what is asked is done and the connection closed without a word.
    With `has_own_pages` people are led to this server to pay, else to hosts that nobody has.
    """

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    customers: set[str] = field(default_factory=set)
    sessions: dict[str | None, str] = field(default_factory=dict)
    intents: dict[str, dict[str, Any]] = field(default_factory=dict)
    methods: dict[str, str] = field(default_factory=dict)
    loses_answers: bool = False
    has_own_pages: bool = False
    failure: tuple[int, dict[str, Any]] | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    has_arrived: threading.Event = field(default_factory=threading.Event)
    _answers: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def forget(self) -> None:
        """Be as it was at first, but know the customers."""
        self.asked.clear()
        self.sessions.clear()
        self.intents.clear()
        self.methods.clear()
        self.loses_answers = False
        self.has_own_pages = False
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
            return self._answers[asked.idempotency_key]
        if asked.path.startswith(_INTENTS + "?"):
            return 200, self._listed(asked.form["customer"])
        customer = asked.form.get("customer")
        if customer is not None and customer not in self.customers:
            error = {"type": "invalid_request_error", "code": "resource_missing", "param": "customer"}
            return 400, {"error": error | {"message": f"No such customer: '{customer}'"}}
        answer = self._paid(asked.form) if asked.path == _INTENTS else (200, self._made(asked.path))
        if asked.path == "/v1/checkout/sessions":
            self.sessions[asked.idempotency_key] = answer[1]["id"]
        if asked.idempotency_key is not None:
            self._answers[asked.idempotency_key] = answer
        return answer

    def _listed(self, customer: str) -> dict[str, Any]:
        found = [one for one in self.intents.values() if one["customer"] == customer]
        return {"object": "list", "url": _INTENTS, "has_more": False, "data": found}

    def _paid(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """A payment by a saved method: https://docs.stripe.com/api/payment_intents/create."""
        metadata = {name[9:-1]: text for name, text in form.items() if name.startswith("metadata[")}
        outcome = self.methods.get(form["payment_method"], "succeeded")
        is_declined = outcome not in ("succeeded", "processing", "requires_action")
        made = intent(f"pi_auto_{next(_numbers)}", int(form["amount"]), metadata, "" if is_declined else outcome)
        made |= {"customer": form["customer"], "payment_method": form["payment_method"]}
        self.intents[made["id"]] = made
        if not is_declined:
            return 200, made
        made |= {"status": "requires_payment_method", "last_payment_error": {"code": outcome}}
        return 402, {"error": {"type": "card_error", "code": outcome, "message": "MARK", "payment_intent": made}}

    def _made(self, path: str) -> dict[str, Any]:
        number = next(_numbers)
        if path == "/v1/customers":
            self.customers.add(f"cus_{number}")
            return {"id": f"cus_{number}", "object": "customer"}
        if path == "/v1/checkout/sessions":
            url = f"{self.url if self.has_own_pages else 'https://checkout.stripe.test'}/c/{number}"
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
            self.tell(self.rfile.read(int(self.headers["content-length"])).decode())

        def do_GET(self) -> None:
            self.tell(urlsplit(self.path).query)

        def tell(self, form: str) -> None:
            asked = Asked(self.path, dict(parse_qsl(form)), self.headers["idempotency-key"])
            status, value = stripe.answer(asked, self.headers["authorization"])
            if stripe.loses_answers:
                self.close_connection = True
                return
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


def intent(payment: str, cents: int, metadata: dict[str, str], status: str = "succeeded") -> dict[str, Any]:
    """A payment as Stripe has it: https://docs.stripe.com/api/payment_intents/object."""
    return {
        "id": payment,
        "object": "payment_intent",
        "status": status,
        "amount": cents,
        "amount_received": cents if status == "succeeded" else 0,
        "currency": "usd",
        "created": 1_800_000_000,
        "customer": None,
        "payment_method": None,
        "setup_future_usage": None,
        "last_payment_error": None,
        "metadata": metadata,
    }


def saving_intent(
    account_id: str, *, customer: str, method: str, payment: str = "pi_1", user_id: str | None = None
) -> dict[str, Any]:
    """The payment of a session whose payer let the method be charged again."""
    payer = {} if user_id is None else {"gateway_user_id": user_id}
    saved = {"customer": customer, "payment_method": method, "setup_future_usage": "off_session"}
    return intent(payment, 1000, {"gateway_account_id": account_id} | payer) | saved


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
