"""Where an array is: a container, on disk or behind a URL, and a name within it. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bellis.errors import ArrayError

if TYPE_CHECKING:
    import os

SUFFIXES = (
    *(".zarr", ".n5", ".h5", ".hdf5", ".hdf", ".precomputed"),
    *(".tif", ".tiff", ".nii", ".nii.gz"),
)
"""Endings by which a part of a path is taken for a container."""
SCHEMES = ("file", "http", "https", "s3", "gs", "memory")
"""Schemes that are opened; in front of them, or of a path, may stand a format, as in ``n5://s3://bucket/x``."""

_CLOSED = (".tif", ".tiff", ".nii", ".nii.gz")
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://(.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Location:
    """Where an array or a group is."""

    root: str
    """Absolute local path or URL of the container (a file, or a directory); no slash at its end."""
    name: str = ""
    """Path within the container, without slashes at its ends; empty for the container itself."""
    format: str | None = None
    """Name of the format, if the path says so."""

    @classmethod
    def of(cls, path: str | os.PathLike[str], name: str | None = None, format: str | None = None) -> Location:
        """Split a path after the first part that ends like a container; the whole path is one if none does.

        Examples
        --------
        >>> Location.of("s3://bucket/em.zarr/volumes", "raw")
        Location(root='s3://bucket/em.zarr', name='volumes/raw', format=None)
        >>> Location.of("n5://http://host/em/raw")
        Location(root='http://host/em/raw', name='', format='n5')

        Raises
        ------
        ArrayError
            If the path is empty, or a name leaves its container.
        """
        text = str(path)
        if not text:
            raise ArrayError("the path is empty: pass the path or URL of an array")
        url = _URL.match(text)
        if url and url[1].lower() not in SCHEMES:
            if format is not None and format != url[1].lower():
                raise ArrayError(f"{text} says format {url[1]!r}, but format={format!r} was passed: pass one of them")
            text, format = url[2], url[1].lower()
            url = _URL.match(text)
        if url and url[1].lower() == "file":
            text, url = url[2], None
        if url and url[1].lower() not in SCHEMES:
            raise ArrayError(f"{path} has the unknown scheme {url[1]!r}: use one of {', '.join(SCHEMES)}")
        prefix = f"{url[1].lower()}://" if url else ""
        body = url[2] if url else Path(text).absolute().as_posix()
        parts = [part for part in body.split("/") if part not in {"", "."}]
        if ".." in (*parts, *(name or "").split("/")):
            parts = Path(body).resolve().as_posix().split("/")[1:] if not url else parts
            if ".." in (*parts, *(name or "").split("/")):
                raise ArrayError(f"{path}, name {name!r}: '..' would leave the container; pass the path without it")
        # Nothing is inside of an image file: what is called so and holds something is a folder like any other.
        ends = [k for k, part in enumerate(parts, 1) if _suffix(part) not in _CLOSED or k == len(parts)]
        ends = [k for k in ends if _suffix(parts[k - 1])]
        end = ends[0] if ends else len(parts)
        inner = [*parts[end:], *(part for part in (name or "").split("/") if part not in {"", "."})]
        slash = "" if url else "/"
        return cls(prefix + slash + "/".join(parts[:end]), "/".join(inner), format)

    @property
    def is_remote(self) -> bool:
        """Whether this is a URL; ``memory://`` is one."""
        return "://" in self.root

    @property
    def url(self) -> str:
        """Path or URL of what is meant, container and name together."""
        return f"{self.root}/{self.name}" if self.name else self.root

    @property
    def path(self) -> Path:
        """Local path of what is meant.

        Raises
        ------
        ArrayError
            If it is remote.
        """
        if self.is_remote:
            raise ArrayError(f"{self.url} is behind a URL: a local path is due")
        return Path(self.url)

    @property
    def suffix(self) -> str:
        """Ending of the container, lower case; empty if it has none that is known."""
        return _suffix(self.root.rpartition("/")[2])

    def __truediv__(self, name: str) -> Location:
        """Return what is called ``name`` in here."""
        return Location(self.root, "/".join(part for part in (self.name, name.strip("/")) if part), self.format)

    @property
    def parent(self) -> Location | None:
        """What this is in; None for the container."""
        return Location(self.root, self.name.rpartition("/")[0], self.format) if self.name else None

    def __str__(self) -> str:
        return self.url


def _suffix(part: str) -> str:
    """Return the ending by which a part of a path is taken for a container; a name that is all ending has none."""
    fitting = [end for end in SUFFIXES if part.lower().endswith(end) and len(part) > len(end)]
    return max(fitting, key=len, default="")
