"""Metadata files: on a local disk, and in tensorstore's stores."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from bellis.arrays import keyvalue
from bellis.arrays.keyvalue import read_attributes, read_json, update_attributes, update_json, write_json
from bellis.arrays.location import Location
from bellis.errors import ArrayError
from bellis.testing.voxels import count_up, processes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return Location.of(tmp_path / "a" if request.param == "local" else f"memory:/{tmp_path}")


def test_what_is_written_is_read(place: Location) -> None:
    assert read_json(place, "zarr.json") is None
    assert not keyvalue.exists(place, "zarr.json")
    write_json(place, "zarr.json", {"a": [1, None]})
    assert read_json(place, "zarr.json") == {"a": [1, None]}
    assert keyvalue.exists(place, "zarr.json")


def test_what_is_below_is_listed_and_deleted(place: Location) -> None:
    assert keyvalue.children(place) == []
    assert keyvalue.is_empty(place)
    for name in ("b", "a/deep"):
        write_json(place / name, "zarr.json", {})
    write_json(place, "zarr.json", {})
    assert keyvalue.children(place) == ["a", "b"]
    assert not keyvalue.is_empty(place)
    keyvalue.delete(place / "a")
    assert keyvalue.children(place) == ["b"]
    keyvalue.delete(place)
    keyvalue.delete(place)
    assert keyvalue.is_empty(place)


def test_a_change_that_changes_nothing_writes_nothing(place: Location) -> None:
    update_json(place, "a.json", lambda found: {**found, "n": 1})
    if not place.is_remote:
        before = (place.path / "a.json").stat().st_mtime_ns
    update_json(place, "a.json", lambda found: {**found, "n": 1})
    if not place.is_remote:
        assert (place.path / "a.json").stat().st_mtime_ns == before
        assert [entry.name for entry in place.path.iterdir()] == ["a.json"]
    assert read_json(place, "a.json") == {"n": 1}


def test_no_change_of_threads_is_lost(place: Location) -> None:
    begun = threading.Barrier(4)

    def change(_: int) -> None:
        begun.wait()
        for _ in range(5):
            update_json(place, "a.json", lambda found: {"n": found.get("n", 0) + 1})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, range(4)))
    assert read_json(place, "a.json") == {"n": 20}


@pytest.mark.slow
@pytest.mark.integration
def test_no_change_of_processes_is_lost(tmp_path: Path) -> None:
    with processes(3) as pool:
        list(pool.map(count_up, [tmp_path / "a"] * 3, [20] * 3))
    assert read_json(Location.of(tmp_path / "a"), "a.json") == {"n": 60}


@pytest.mark.parametrize(
    ("files", "changed"),
    [
        ({"zarr.json": {"node_type": "group", "attributes": {"a": 1}}}, "zarr.json"),
        ({"zarr.json": {"node_type": "group"}}, "zarr.json"),
        ({".zgroup": {}, ".zattrs": {"a": 1}}, ".zattrs"),
        ({".zarray": {}}, ".zattrs"),
        ({"attributes.json": {"a": 1, "n5": "4.0.0"}}, "attributes.json"),
    ],
)
def test_attributes_are_where_the_format_has_them(
    place: Location, files: dict[str, dict[str, Any]], changed: str
) -> None:
    for key, value in files.items():
        write_json(place, key, value)
    update_attributes(place, lambda found: {**found, "b": 2})
    assert read_attributes(place)["b"] == 2
    assert {**read_attributes(place), "b": 2} == read_attributes(place)
    found = read_json(place, changed)
    assert found is not None
    assert (found["attributes"] if changed == "zarr.json" else found)["b"] == 2
    if changed == "zarr.json":
        assert found["node_type"] == "group"


def test_there_are_no_attributes_of_nothing(place: Location) -> None:
    assert read_attributes(place) == {}
    with pytest.raises(ArrayError, match="no zarr or N5 group"):
        update_attributes(place, lambda found: found)


@pytest.mark.parametrize(
    ("text", "match"), [("{", "is not JSON"), ("[1]", "holds a JSON list"), ("\xff", "is not JSON")]
)
def test_what_is_no_object_is_an_error_with_its_path(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "zarr.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArrayError, match=f"zarr.json {match}"):
        read_json(Location.of(tmp_path), "zarr.json")


def test_what_the_system_refuses_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "directory.json").mkdir()
    inside = Location.of(tmp_path / "file" / "a")
    assert read_json(inside, "zarr.json") is None
    with pytest.raises(ArrayError, match=r"can't write .*file/a/zarr\.json"):
        write_json(inside, "zarr.json", {})
    with pytest.raises(ArrayError, match=r"can't read .*directory\.json"):
        read_json(Location.of(tmp_path), "directory.json")


def test_a_file_that_was_not_written_to_its_end_is_not_seen(tmp_path: Path) -> None:
    place = Location.of(tmp_path)
    write_json(place, "a.json", {"n": 1})
    with pytest.raises(TypeError):
        write_json(place, "a.json", {"n": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 1}
