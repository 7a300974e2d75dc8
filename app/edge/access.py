"""Who may ask the models, and how often: API keys and a rate for each client. Both off by default.

They guard what costs: every POST of the API, its WebSocket, and the page when it is asked about a
photo. Lists, documentation, health and metrics stay open.
"""

import base64
import binascii
import hmac
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, WebSocketException
from limits import RateLimitItem, parse
from starlette.requests import HTTPConnection

from app.settings import Settings

KEY_HEADER = "X-API-Key"
SCHEMES = {
    "key": {"type": "apiKey", "in": "header", "name": KEY_HEADER},
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "any user name; the password is the key. Browsers ask for it by themselves.",
    },
}
CLIENTS = 10_000  # remembered at once: about 2 MB


@dataclass(frozen=True)
class Standing:
    """Where a client stands with its rate, in requests and seconds."""

    allowed: bool
    remaining: int  # requests that would be answered at once
    full_in_s: float  # until all of them are there again
    next_in_s: float  # until one more is answered


class Buckets:
    """A token bucket for each client: `limit.amount` at once, refilled evenly over its period.

    Of at most `clients` clients, the longest unseen are forgotten. Ours because the stores of
    `limits` forget nobody within a period, and run a timer thread or walk all clients at each hit.
    """

    def __init__(
        self,
        limit: RateLimitItem,
        clients: int = CLIENTS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.amount = limit.amount
        self.period_s = limit.get_expiry()
        self._per_s = self.amount / self.period_s
        self._clients = clients
        self._now = now
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, when

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, client: str) -> Standing:
        """Take a token from the client's bucket, if one is there."""
        now = self._now()
        tokens, then = self._levels.pop(client, (float(self.amount), now))
        tokens = min(self.amount, tokens + (now - then) * self._per_s)
        allowed = tokens >= 1
        tokens -= allowed
        self._levels[client] = tokens, now
        if len(self._levels) > self._clients:
            self._levels.popitem(last=False)
        return Standing(
            allowed,
            int(tokens),
            (self.amount - tokens) / self._per_s,
            max(0.0, (1 - tokens) / self._per_s),
        )


class Access:
    """The door of a service, as its settings say."""

    def __init__(self, settings: Settings) -> None:
        self._keys = [key.get_secret_value().encode() for key in settings.api_keys]
        self._buckets = Buckets(parse(settings.rate_limit)) if settings.rate_limit else None

    @property
    def needs_key(self) -> bool:
        """Whether there are keys."""
        return bool(self._keys)

    def admit(self, connection: HTTPConnection) -> None:
        """Let a question in. Raises HTTPException 401 (no such key), 429 (too many).

        Without a good key nothing is counted: who shares an address with its owner can't use up
        the owner's rate.
        """
        if self._keys and not self._knows(sent_key(connection)):
            raise HTTPException(
                401,
                f"A key is needed. Send it as the header '{KEY_HEADER}', or as the password of "
                "HTTP Basic authentication with any user name.",
                {"WWW-Authenticate": 'Basic realm="CBAM Lens", charset="UTF-8"'},
            )
        if self._buckets is not None:
            self._count(connection, self._buckets)

    def _knows(self, key: bytes) -> bool:
        """Compared with every key, each in constant time: how long it takes tells nothing."""
        return sum(hmac.compare_digest(key, known) for known in self._keys) > 0

    def _count(self, connection: HTTPConnection, buckets: Buckets) -> None:
        standing = buckets.take(client_of(connection))
        connection.scope["state"]["headers"].update(
            {
                "RateLimit-Limit": str(buckets.amount),
                "RateLimit-Remaining": str(standing.remaining),
                "RateLimit-Reset": str(math.ceil(standing.full_in_s)),
            }
        )
        if not standing.allowed:
            seconds = max(1, math.ceil(standing.next_in_s))
            raise HTTPException(
                429,
                f"At most {buckets.amount} questions in {buckets.period_s} s. "
                f"Try again in {seconds} s.",
                {"Retry-After": str(seconds)},
            )


async def admit(connection: HTTPConnection) -> None:
    """What routes depend on: only those who may, and not too often, ask the models.

    Raises HTTPException 401, 429; for a WebSocket, which has no such answers, WebSocketException.
    """
    access: Access = connection.app.state.access
    if connection.scope["type"] == "websocket":
        try:
            access.admit(connection)
        except HTTPException as error:
            raise WebSocketException(1008, error.detail) from None
    elif connection.scope["method"] == "POST" or connection.query_params.get("photo"):
        access.admit(connection)


def sent_key(connection: HTTPConnection) -> bytes:
    """The key that came with a request: in its own header, or as the password of Basic."""
    if key := connection.headers.get(KEY_HEADER):
        return key.encode("latin-1")  # as headers travel
    scheme, _, encoded = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def client_of(connection: HTTPConnection) -> str:
    """Whom a request counts for: the address; of IPv6 the network, which one client owns whole.

    The address is that of a proxy's X-Forwarded-For where uvicorn trusts the proxy.
    """
    host = connection.client.host if connection.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]  # a proxy's word, such as "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return host
    return str(address.ipv4_mapped or ipaddress.ip_network((int(address), 64), strict=False))


def declare(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document that says where a key is needed."""
    document["components"].setdefault("securitySchemes", {}).update(SCHEMES)
    for path in document["paths"].values():
        if "post" in path:
            path["post"]["security"] = [{name: []} for name in SCHEMES]
    return document
