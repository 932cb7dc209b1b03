"""One request to a web server: an answer in time, or an error that says what to make of it."""

from __future__ import annotations

import http.client
import os
import socket
from ipaddress import ip_address
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from bellis.errors import AccessError, ArrayError, FetchError, TransientError
from bellis.volumes.access import credentials, public, without
from bellis.volumes.answers import Answer, Request, check_url, received

if TYPE_CHECKING:
    import urllib3

    from bellis.volumes.descriptions import Access

SPARE_BYTES = 64 * 1024**2
"""What an answer may have beyond four times what is expected."""
REDIRECTS = 10
"""How often a server may send us elsewhere."""


class HttpClient:
    """Asks web servers, from several threads at once; connections are kept, per process.

    Proxies are those of the environment (``https_proxy``, ``no_proxy``), save for this machine itself.

    Parameters
    ----------
    access
        Who we are.
    parallel
        Connections to one server; a request beyond that waits for one, within its time.
    """

    def __init__(self, access: Access, parallel: int = 16) -> None:
        self._access = access
        self._parallel = parallel
        # Those of a parent process are kept and never touched: another thread may have held their locks at the fork.
        self._pools: dict[tuple[int, str | None, bool], urllib3.PoolManager] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return HttpClient, (self._access, self._parallel)

    def close(self) -> None:
        """Close the connections of this process; a later request opens new ones."""
        for key in [key for key in self._pools if key[0] == os.getpid()]:
            self._pools.pop(key).clear()

    def get(self, url: str, *, timeout_s: float, stall_s: float, expected_bytes: int = 0) -> Answer:
        """Return what is at a URL: one attempt.

        Parameters
        ----------
        url
            ``http://`` or ``https://``.
        timeout_s
            Seconds until this returns or raises.
        stall_s
            Seconds without a byte after which the attempt has failed.
        expected_bytes
            About how many will come; many more are refused.

        Raises
        ------
        TransientError
            If it may succeed another time.
        AccessError, MissingBlockError, FetchError
            If it will not. No message has a secret in it.
        """
        try:
            from bellis.volumes.deadlines import limited
        except ImportError as error:
            raise ArrayError("volumes behind web servers need urllib3: pip install 'bellis[remote]'") from error
        check_url(url)
        headers = self._credentials(url)
        request = Request(url, headers, monotonic() + timeout_s, timeout_s, stall_s, SPARE_BYTES + 4 * expected_bytes)
        with limited(request.deadline, stall_s):
            for _ in range(REDIRECTS + 1):
                answer = self._ask(request)
                if isinstance(answer, Answer):
                    return answer
                request.follow(answer)
        raise FetchError(f"{public(url)}: more than {REDIRECTS} redirects, the last to {public(request.url)}")

    def _credentials(self, url: str) -> dict[str, str]:
        try:
            return credentials(self._access, url)
        except AccessError as error:
            raise AccessError(f"{public(url)}: {error}") from None

    def shown(self, text: str, url: str) -> str:
        """Return what came from a URL, or a part of it, as it may be shown: without the secrets of the request."""
        return without(text, url, credentials(self._access, url))

    def _ask(self, request: Request) -> Answer | str:
        """Return the answer to one request, or where it sends us."""
        from urllib3.exceptions import HTTPError

        failure: FetchError
        try:
            response = self._pool(request.url).request(
                "GET",
                request.url,
                headers={"Accept-Encoding": "gzip, deflate", "User-Agent": "bellis", **request.headers},
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
                pool_timeout=max(0.001, request.left_s),
                timeout=max(0.001, request.left_s),
            )
            try:
                answer = received(response, request)
            except BaseException:
                response.close()
                raise
            finally:
                response.release_conn()
        except (HTTPError, OSError, http.client.HTTPException) as error:
            if isinstance(error, FetchError):
                raise
            failure = _failure(error, request)
        else:
            return answer
        raise failure  # not chained: what urllib3 says has the whole URL

    def _pool(self, url: str) -> urllib3.PoolManager:
        from bellis.volumes.deadlines import pools

        proxy = _proxy(url)
        key = (os.getpid(), proxy, any(str(each).startswith("https:") for each in (url, proxy)))
        found = self._pools.get(key)
        return found or self._pools.setdefault(key, pools(self._parallel, proxy, is_secure=key[2]))


def _failure(error: Exception, request: Request) -> FetchError:
    """Return what became of a request that has no answer."""
    from urllib3.exceptions import (
        EmptyPoolError,
        LocationValueError,
        NameResolutionError,
        NewConnectionError,
        SSLError,
    )

    if request.left_s <= 0.002 or isinstance(error, EmptyPoolError):
        return request.error(TransientError, f"did not answer in full within {request.timeout_s:.4g} s")
    if isinstance(error, NameResolutionError):
        unknown = isinstance(error.__cause__, socket.gaierror) and error.__cause__.errno == socket.EAI_NONAME
        return request.error(FetchError if unknown else TransientError, f"the host can't be found: {error.__cause__}")
    if isinstance(error, NewConnectionError):
        return request.error(TransientError, f"can't be connected to: {error.__cause__}")
    if _is_timeout(error):
        return request.error(TransientError, f"sent no byte for {request.stall_s:.4g} s")
    if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return request.error(FetchError, f"its certificate can't be trusted: {_inner(error)}")
    if isinstance(error, LocationValueError | http.client.InvalidURL):
        return request.error(FetchError, "is no URL that can be asked for")
    return request.error(TransientError, f"the connection broke: {_inner(error)}")


def _is_timeout(error: Exception) -> bool:
    from urllib3.exceptions import TimeoutError as Expired

    return isinstance(error, TimeoutError | Expired)


def _inner(error: BaseException) -> str:
    """Return the innermost words: those of urllib3 around them have the address of an object."""
    while error.args and isinstance(error.args[-1], BaseException):
        error = error.args[-1]
    return str(error) or type(error).__name__


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = getproxies().get(parts.scheme)
    if proxy is None or _is_here(host) or proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
