"""Temporary folders that carry the name of their process, so that what a killed one left is found and removed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

_NAME = re.compile(r"bellis-(?:host|service)-(?P<place>[0-9a-f]{8})-(?P<pid>[1-9][0-9]{0,9})-.+")


def own_folder(kind: str) -> Path:
    """Make a folder for this process, only its user's; before, remove those of processes that have ended.

    Parameters
    ----------
    kind
        ``host`` or ``service``: what it is for.

    Returns
    -------
    Path
        The folder; whoever asked for it removes it.
    """
    root = Path(tempfile.gettempdir())
    _sweep(root)
    return Path(tempfile.mkdtemp(prefix=f"bellis-{kind}-{_place()}-{os.getpid()}-", dir=root))


def _sweep(root: Path) -> None:
    place = _place()
    with os.scandir(root) as entries:
        found = [(entry, _NAME.fullmatch(entry.name)) for entry in entries if entry.name.startswith("bellis-")]
    for entry, name in found:
        if name is None or name["place"] != place:
            continue
        try:
            is_ours = entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.getuid()
        except OSError:  # another process was quicker
            continue
        if is_ours and _has_ended(int(name["pid"])):
            shutil.rmtree(entry.path, ignore_errors=True)


def _place() -> str:
    """Return where a pid means the same process: the folder may be shared with other machines, and with containers."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116  # no file, but what a link stands for
    except OSError:
        namespace = 0
    return hashlib.sha256(f"{os.uname().nodename} {namespace}".encode()).hexdigest()[:8]


def _has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        return False
    return False
