"""Who may ask the models, and how often: API keys and a rate for each client. Both off by default.

They guard what costs: every POST of the API, its WebSocket, and the page when it is asked about a
photo. Lists, documentation, health and metrics stay open.
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

CLIENTS = 10_000  # remembered at once: about 2 MB


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
    description="any user name; the password is the key. Browsers ask for it by themselves.",
    auto_error=False,
)


@dataclass(frozen=True)
class Standing:
    """Where a client stands with its rate, in requests and seconds."""

    allowed: bool
    remaining: int  # requests that would be answered at once
    full_in_s: float  # until all of them are there again
    next_in_s: float  # until one more is answered


class Rate:
    """How often each client may ask: `limit.amount` times at once, given back evenly over a period.

    One whole number a client says it all: when everything is given back
    (https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm). Of at most `clients` clients, the
    longest unseen are forgotten; the stores of `limits` forget nobody within a period.
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
        """Count a question of this client, if it is allowed."""
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
    """The door of a service, as its settings say."""

    def __init__(self, settings: Settings) -> None:
        self._keys = [key.get_secret_value().encode() for key in settings.api_keys]
        self._rate = Rate(parse(settings.rate_limit)) if settings.rate_limit else None

    @property
    def dependencies(self) -> list[Dependency]:
        """What guards a router, and describes the keys in its documentation if there are any."""
        schemes = [Security(HEADER), Security(PASSWORD)] if self._keys else []
        return [*schemes, Depends(admit)]

    async def admit(self, connection: HTTPConnection) -> None:
        """Let a question in. Raises HTTPException 401 (no such key), 429 (too many).

        Without a good key nothing is counted: who shares an address with its owner can't use up
        the owner's rate.
        """
        if self._keys and not self._knows(await sent_key(connection)):
            raise PASSWORD.make_not_authenticated_error()
        if self._rate is not None:
            _count(connection, self._rate)

    def _knows(self, key: str) -> bool:
        """Compared with every key, each in constant time: how long it takes tells nothing."""
        sent = key.encode("latin-1")  # as headers travel
        return sum(hmac.compare_digest(sent, known) for known in self._keys) > 0


async def admit(connection: HTTPConnection) -> None:
    """What routes depend on: only those who may, and not too often, ask the models.

    Raises HTTPException 401, 429; for a WebSocket, which has no such answers, WebSocketException.
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
    """The key that came with a request: in its own header, or as the password of Basic."""
    if key := await HEADER(connection):
        return key
    basic = await PASSWORD(connection)
    return basic.password if basic else ""


def _count(connection: HTTPConnection, rate: Rate) -> None:
    """Count the client's question, and say in its answer's headers how many are left."""
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
