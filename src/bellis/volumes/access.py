"""Who we are, for a server: headers made of what environment variables and netrc say. Secrets are never shown.

A secret goes wherever the description says that the volume is, over plain ``http://`` too: who listens on the way reads
it there. Volumes behind ``https://`` are not open to that.
"""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bellis.errors import AccessError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bellis.volumes.descriptions import Access

HIDDEN = "***"
"""What is shown in place of a secret."""

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SECRET = re.compile(
    r"(?i)([?&;](?:[^=&;#]*(?:token|secret|passw|pwd|auth|credential|signature|policy|session)[^=&;#]*"
    r"|sig|key|api[-_]?key|access[-_]?key(?:[-_]?id)?|[^=&;#]*accessid)=)([^&;#]*)"
)
_USER = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")


def credentials(access: Access, url: str) -> dict[str, str]:
    """Return the headers that say who we are.

    Raises
    ------
    AccessError
        If a variable is not set or can't be sent, or netrc can't be read or knows nothing of the host. The message
        names the variable or the file, never what it holds.
    """
    if _USER.match(url):
        raise AccessError("the URL has a user or a password in it: use netrc, or a variable with a token")
    headers = {}
    for header, variable in access.headers_env.items():
        if not _HEADER.fullmatch(header):
            raise AccessError(f"{header!r} is no name of a header (variable {variable})")
        headers[header] = _variable(variable, f"header {header}")
    says_who = any(header.lower() == "authorization" for header in headers)
    if access.token_env is not None:
        if says_who:
            raise AccessError(f"token_env {access.token_env} and a header Authorization are given: pass one of them")
        headers["Authorization"] = f"Bearer {_variable(access.token_env, 'token')}"
    elif access.netrc and not says_who:
        headers["Authorization"] = _basic(*_netrc_entry(urlsplit(url).hostname or ""))
    return headers


def public(url: str) -> str:
    """Return a URL as it may be shown: without user and password, and what its query calls a secret.

    >>> public("https://me:pw@host/a?token=abc&x=1")
    'https://host/a?token=***&x=1'
    """
    return _SECRET.sub(rf"\g<1>{HIDDEN}", _USER.sub(r"\1", url))


def without(text: str, url: str, headers: Mapping[str, str]) -> str:
    """Return a text, like a page of a server, without the secrets that a request had."""
    secrets = {match[2] for match in _SECRET.finditer(url)}
    for value in headers.values():
        secrets |= {value, value.partition(" ")[2]}
    for secret in sorted(secrets - {""}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _variable(name: str, what: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise AccessError(f"environment variable {name}, which holds the {what}, is not set: export {name}=...")
    if not (value.isascii() and value.isprintable()):
        raise AccessError(f"environment variable {name}, which holds the {what}, has characters that no header can")
    return value


def _netrc_entry(host: str) -> tuple[str, str]:
    """Return user and password; no error is chained to another one, which could quote the file."""
    from netrc import NetrcParseError, netrc

    named = os.environ.get("NETRC")
    path = Path(named) if named else Path("~/.netrc").expanduser()
    problem = ""
    try:
        entry = netrc(path).authenticators(host)
    except OSError as error:
        problem = f"can't be read: {error.strerror}"
    except NetrcParseError as error:
        problem = f"has a mistake in line {error.lineno}"
    except UnicodeDecodeError:
        problem = "is not text"
    else:
        if entry is not None:
            return entry[0] or entry[1] or "", entry[2] or ""
        problem = f"has no entry for {host}"
    raise AccessError(f"{path}, which says who we are for {host}, {problem}")


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
