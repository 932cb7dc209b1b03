"""Where an array is: paths and URLs, split into container and name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.arrays.location import Location
from bellis.errors import ArrayError

PARTS = st.lists(st.text("abc.", min_size=1, max_size=4).filter(lambda part: part.strip(".") != ""), max_size=3)


@pytest.mark.parametrize(
    ("path", "name", "expected"),
    [
        ("/x/a.zarr", None, Location("/x/a.zarr")),
        ("/x/a.zarr/raw", None, Location("/x/a.zarr", "raw")),
        ("/x/a.zarr/volumes/", "raw/", Location("/x/a.zarr", "volumes/raw")),
        ("/x/plain", "raw", Location("/x/plain", "raw")),
        ("/x/plain/raw", None, Location("/x/plain/raw")),
        ("/x/A.ZARR/raw", None, Location("/x/A.ZARR", "raw")),
        ("/x/scan.nii.gz", None, Location("/x/scan.nii.gz")),
        ("/x/a.h5/em/raw", None, Location("/x/a.h5", "em/raw")),
        ("/x//y/./a.n5", "c", Location("/x/y/a.n5", "c")),
        ("/x/y/../a.zarr/raw", None, Location("/x/a.zarr", "raw")),
        ("file:///x/a.zarr/raw", None, Location("/x/a.zarr", "raw")),
        ("n5:///x/plain", None, Location("/x/plain", "", "n5")),
        ("n5://file:///x/plain", None, Location("/x/plain", "", "n5")),
        ("precomputed://https://host:80/em", None, Location("https://host:80/em", "", "precomputed")),
        ("S3://bucket/a.zarr/raw", None, Location("s3://bucket/a.zarr", "raw")),
        ("gs://bucket/a/", "b", Location("gs://bucket/a", "b")),
        ("/x/scan.tif/a.zarr/raw", None, Location("/x/scan.tif/a.zarr", "raw")),
        ("/x/.nii/a.zarr/raw", None, Location("/x/.nii/a.zarr", "raw")),
        ("/x/stack.tif/raw", None, Location("/x/stack.tif/raw")),
        ("/x/stack.tif", "raw", Location("/x/stack.tif", "raw")),
        ("memory://a.zarr", "raw", Location("memory://a.zarr", "raw")),
    ],
)
def test_a_path_is_split_after_the_container(path: str, name: str | None, expected: Location) -> None:
    assert Location.of(path, name) == expected


@pytest.mark.parametrize(
    ("path", "name", "format", "match"),
    [
        ("", None, None, "path is empty"),
        ("/x/a.zarr", "../b", None, "'..' would leave"),
        ("s3://bucket/../b", None, None, "'..' would leave"),
        ("n5://ftp://host/a", None, None, "unknown scheme 'ftp'"),
        ("n5:///x/a", None, "zarr", "pass one of them"),
    ],
)
def test_what_is_no_location_is_refused(path: str, name: str | None, format: str | None, match: str) -> None:
    with pytest.raises(ArrayError, match=match):
        Location.of(path, name, format)


def test_a_relative_path_is_made_absolute() -> None:
    assert Location.of("a.zarr") == Location(str(Path.cwd() / "a.zarr"))
    assert Location.of(Path("a.zarr/raw")).path == Path.cwd() / "a.zarr" / "raw"


@pytest.mark.parametrize(
    ("root", "suffix"), [("/a.zarr", ".zarr"), ("/a.NII.GZ", ".nii.gz"), ("/a.gz", ""), ("/a", ""), ("/.nii", "")]
)
def test_the_ending_of_the_container_says_the_format(root: str, suffix: str) -> None:
    assert Location(root, "raw").suffix == suffix


@given(st.sampled_from(["/x/a.zarr", "s3://bucket/a.zarr", "memory://a"]), PARTS)
def test_names_are_walked_down_and_up(root: str, parts: list[str]) -> None:
    here = Location(root)
    for part in parts:
        assert (here / part).parent == here
        assert str(here / part) == f"{here}/{part}"
        here /= part
    assert here == Location.of(root, "/".join(parts))
    assert Location.of(root, here.name).url == "/".join([root, *parts])
    assert here.is_remote == ("://" in root)
