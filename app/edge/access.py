"""Who may ask the models, and how often: API keys and a rate per client, both off by default.

They guard what costs time: every POST to the API, its WebSocket, and the page when it is asked
about a photo. Lists, documentation, health and metrics stay open.
"""

import hmac
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Depends, HTTPException, Security, WebSocketException
from fastapi.params import Depends as Dependency
from fastapi.security import APIKeyHeader, HTTPBasic
from limits import RateLimitItem, parse
from starlette.requests import HTTPConnection

from app.settings import Settings

CLIENTS = 10_000  # most clients remembered at once: about 2 MB


class _Password(HTTPBasic):
    """HTTP Basic authentication whose refusal says what would work."""

    def make_not_authenticated_error(self) -> HTTPException:
        return HTTPException(
            401,
            f"A key is needed. Send it as the header '{HEADER.model.name}', or as the password of "
            "HTTP Basic authentication with any user name.",
            self.make_authenticate_headers(),
        )


HEADER = APIKeyHeader(name="X-API-Key", scheme_name="key", auto_error=False)
PASSWORD = _Password(
    scheme_name="basic",
    realm="CBAM Lens",
    description="The password is the key, with any user name. Browsers ask for it by themselves.",
    auto_error=False,
)


@dataclass(frozen=True)
class Standing:
    """Where a client stands with its rate, in requests and seconds."""

    allowed: bool
    remaining: int  # requests that would be answered at once
    full_in_s: float  # until all requests are available again
    next_in_s: float  # until one more request is allowed


class Rate:
    """The rate limit: a burst of `limit.amount` requests per client, refilled evenly over a period.

    Each client takes one integer: the time when all its requests are available again
    (https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm). At most `clients` clients are
    remembered; the one unseen for longest is forgotten first. The stores of `limits` would keep
    every client for a whole period.
    """

    def __init__(
        self,
        limit: RateLimitItem,
        clients: int = CLIENTS,
        now: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.amount, self.period_s = limit.amount, limit.get_expiry()
        self._period = self.period_s * 10**9
        self._each = max(1, self._period // self.amount)
        self._clients = clients
        self._now = now
        self._full_at: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, client: str) -> Standing:
        """Count a question from this client if it is allowed."""
        now = self._now()
        owed = max(0, self._full_at.pop(client, 0) - now)
        allowed = owed + self._each <= self._period
        owed += self._each * allowed
        self._full_at[client] = now + owed
        if len(self._full_at) > self._clients:
            self._full_at.popitem(last=False)
        left = self._period - owed
        return Standing(allowed, left // self._each, owed / 1e9, max(0, self._each - left) / 1e9)


class Access:
    """Checks keys and rates as the service's settings say."""

    def __init__(self, settings: Settings) -> None:
        self._keys = [key.get_secret_value().encode() for key in settings.api_keys]
        self._rate = Rate(parse(settings.rate_limit)) if settings.rate_limit else None

    @property
    def dependencies(self) -> list[Dependency]:
        """The dependencies that guard a router. If there are keys, they also document them."""
        schemes = [Security(HEADER), Security(PASSWORD)] if self._keys else []
        return [*schemes, Depends(admit)]

    async def admit(self, connection: HTTPConnection) -> None:
        """Admit a question. Raises HTTPException 401 (no valid key), 429 (too many questions).

        If there are keys, only requests with a valid one are counted: others at the same address
        cannot use up the key owner's rate.
        """
        if self._keys and not self._knows(await sent_key(connection)):
            raise PASSWORD.make_not_authenticated_error()
        if self._rate is not None:
            _count(connection, self._rate)

    def _knows(self, key: str) -> bool:
        """Whether the key is known. Compares with all in constant time, so timing tells nothing."""
        sent = key.encode("latin-1")  # the encoding of headers
        return sum(hmac.compare_digest(sent, known) for known in self._keys) > 0


async def admit(connection: HTTPConnection) -> None:
    """The dependency of routes that ask the models: checks the key and the rate.

    Raises HTTPException 401, 429; for a WebSocket, which has no HTTP status, WebSocketException.
    """
    access: Access = connection.app.state.access
    if connection.scope["type"] == "websocket":
        try:
            await access.admit(connection)
        except HTTPException as error:
            raise WebSocketException(1008, error.detail) from None
    elif connection.scope["method"] == "POST" or connection.query_params.get("photo"):
        await access.admit(connection)


async def sent_key(connection: HTTPConnection) -> str:
    """The key sent with a request: in its own header, or as the password of HTTP Basic."""
    if key := await HEADER(connection):
        return key
    basic = await PASSWORD(connection)
    return basic.password if basic else ""


def _count(connection: HTTPConnection, rate: Rate) -> None:
    """Count the client's question and say in the answer's headers how many are left."""
    standing = rate.take(client_of(connection))
    connection.scope["state"]["headers"].update(
        {
            "RateLimit-Limit": str(rate.amount),
            "RateLimit-Remaining": str(standing.remaining),
            "RateLimit-Reset": str(math.ceil(standing.full_in_s)),
        }
    )
    if not standing.allowed:
        seconds = max(1, math.ceil(standing.next_in_s))
        raise HTTPException(
            429,
            f"At most {rate.amount} questions in {rate.period_s} s. Try again in {seconds} s.",
            {"Retry-After": str(seconds)},
        )


def client_of(connection: HTTPConnection) -> str:
    """The rate-limit key: the IPv4 address, or the IPv6 /64, since one client owns all of it.

    Behind a proxy that uvicorn trusts, the address comes from X-Forwarded-For.
    """
    host = connection.client.host if connection.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]  # not an address, but a proxy's word such as "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return host
    return str(address.ipv4_mapped or ipaddress.ip_network((int(address), 64), strict=False))
