"""Description files as arrays: open_ds("em.json")."""

from __future__ import annotations

import json
import pickle
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from numpy.testing import assert_array_equal

import bellis
from bellis import ArrayError, DescriptionError, Roi, open_ds, ops, prepare_ds
from bellis.arrays.location import Location
from bellis.arrays.open import claiming
from bellis.cli import main
from bellis.volumes.format import LOOKED_AT, VolumeFormat
from volumes.served import NUM_BLOCKS, Served, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration


@pytest.fixture
def em(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as found:
        yield found


def test_a_description_is_an_array_in_world_units(em: Served) -> None:
    array = open_ds(em.description)
    assert (array.shape, array.dtype, tuple(array.voxel_size)) == ((20, 24, 16), "uint8", (40, 4, 4))
    assert array.roi.begin == (400, 0, 8)
    assert array.chunk_shape == (8, 8, 8)
    assert array.path == str(em.cache)
    region = Roi((400 + 9 * 40, 12, 8), (40, 40, 20))
    assert_array_equal(array[region].to_ndarray(), em.voxels[9:10, 3:13, 0:5])
    assert set(em.asked) == {"1/0/0", "1/1/0"}
    assert_array_equal(pickle.loads(pickle.dumps(array))[region].to_ndarray(), em.voxels[9:10, 3:13, 0:5])


def test_a_view_begins_where_it_is_in_the_volume(em: Served) -> None:
    path = em.describe("part.json", view={"origin": [4, 0, 3], "shape": [10, 24, 13]})
    array = open_ds(path)
    assert array.roi == Roi((400 + 160, 0, 8 + 12), (400, 96, 52))
    assert_array_equal(array.to_ndarray(), em.voxels[4:14, :, 3:16])


def test_operations_take_its_path(em: Served, tmp_path: Path) -> None:
    report = bellis.run(ops.copy(em.description, tmp_path / "out.n5"), "inline", progress=False)
    assert report.ok
    assert_array_equal(open_ds(tmp_path / "out.n5").to_ndarray(), em.voxels)
    assert set(em.asked.values()) == {1}
    assert len(em.asked) == NUM_BLOCKS


def test_the_command_line_takes_its_path(em: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    shown = CliRunner().invoke(main, ["info", "em.json"], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    assert "volume: CachedVolume" in shown.output
    assert "20 x 24 x 16, uint8" in shown.output
    words = ["map", "numpy:negative", "em.json", "out.zarr", "--engine", "inline", "--no-journal"]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert_array_equal(open_ds("out.zarr").to_ndarray(), -em.voxels)


def test_mistakes_in_a_description_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "em.json"
    said = {"_schema_name": "bellis-volume-description", "_schema_version": 1.0, "nam": "em"}
    path.write_text(json.dumps(said))
    with pytest.raises(DescriptionError, match="nam") as caught:
        open_ds(path)
    assert len(caught.value.problems) >= 2
    path.write_text('{"_schema_name": "bellis-volume-description",')
    with pytest.raises(DescriptionError, match=r"em\.json"):
        open_ds(path)
    shown = CliRunner().invoke(main, ["info", str(path)])
    assert shown.exit_code == 2
    assert "em.json" in shown.output
    assert "is not an array" not in shown.output


def test_other_files_are_left_to_other_formats(em: Served, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "far.json").write_text(" " * LOOKED_AT + '{"_schema_name": "x"}')
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "em.txt").write_text(em.description.read_text())
    for name in ("other.json", "far.json", "folder.json", "em.txt", "nothing.json"):
        assert "volume" not in claiming(Location.of(tmp_path / name))
    assert claiming(Location.of(em.description)) == ["volume"]
    assert not VolumeFormat().claims(Location.of("http://127.0.0.1:9/em.json"))
    with pytest.raises(ArrayError, match="is not an array"):
        open_ds(tmp_path / "other.json")
    assert open_ds(tmp_path / "em.txt", format="volume").shape == (20, 24, 16)


def test_it_is_only_read(em: Served) -> None:
    with pytest.raises(ArrayError, match="only read"):
        open_ds(em.description, mode="r+")
    assert not em.cache.exists()
    array = open_ds(em.description)
    with pytest.raises(ArrayError, match="read-only"):
        array[array.roi] = 0
    before = em.description.read_text()
    for mode in ("w", "a"):
        with pytest.raises(ArrayError):
            prepare_ds(em.description, shape=(20, 24, 16), dtype="uint8", mode=mode)
    assert em.description.read_text() == before
    assert VolumeFormat().datasets(Location.of(em.description)) == []
