"""What blocks leave for later steps: whole or not at all, and never of another version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from bellis.errors import RunError
from bellis.ops.parts import Scratch

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    made = Scratch.of("op", version="1", beside=tmp_path / "out.zarr" / "labels")
    made.begin()
    return made


def test_values_come_back_by_step_and_block(scratch: Scratch) -> None:
    values = {("a", 0): None, ("a", 12_345_678): [1, np.float32(2)], ("b", 0): {"k": b"v"}}
    for (step, index), value in values.items():
        scratch.put(step, index, value)
    assert {key: scratch.get(*key) for key in values} == values
    scratch.put("a", 0, "again")
    assert scratch.get("a", 0) == "again"
    assert not list(scratch.folder.rglob("*.partial"))


def test_a_saved_table_is_mapped_not_read(scratch: Scratch) -> None:
    scratch.save("table", np.arange(5, dtype=np.uint64))
    table = scratch.load("table")
    assert isinstance(table, np.memmap)
    assert table.tolist() == [0, 1, 2, 3, 4]
    assert not table.flags.writeable
    scratch.save("table", np.empty(0, np.uint8))
    assert scratch.load("table").shape == (0,)


def test_what_is_missing_damaged_or_of_another_version_is_an_error_that_says_what_to_do(
    scratch: Scratch, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"is missing, the value of block 3 of step 'a'.*reset its tasks"):
        scratch.get("a", 3)
    with pytest.raises(RunError, match=r"table.npy can't be read"):
        scratch.load("table")
    scratch.put("a", 3, [1, 2, 3])
    other = Scratch.of("op", version="2", beside=tmp_path / "out.zarr" / "labels")
    with pytest.raises(RunError, match="left by another version"):
        other.get("a", 3)
    path = next(path for path in scratch.folder.rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(RunError, match="is damaged"):
        scratch.get("a", 3)


def test_the_end_is_noted_before_the_folder_goes(scratch: Scratch) -> None:
    assert scratch.outcome() is None
    scratch.put("a", 0, 1)
    scratch.finish(np.arange(3))
    assert not scratch.folder.exists()
    outcome = scratch.outcome()
    assert outcome is not None
    assert outcome[0].tolist() == [0, 1, 2]
    scratch.finish("a later call, of a block that is run again, changes nothing")
    assert scratch.outcome()[0].tolist() == [0, 1, 2]  # type: ignore[index]


def test_a_removal_that_was_killed_is_made_up_for(scratch: Scratch) -> None:
    scratch.finish(1)
    (scratch.folder / "a").mkdir(parents=True)
    scratch.finish(1)
    assert not scratch.folder.exists()
    assert scratch.outcome() == (1,)


def test_a_damaged_note_is_an_error_not_an_end(scratch: Scratch) -> None:
    scratch.finish(1)
    next(scratch.folder.parent.glob("*.done")).write_bytes(b"")
    with pytest.raises(RunError, match="is damaged"):
        scratch.outcome()
    scratch.begin()
    assert scratch.outcome() is None


def test_a_new_beginning_forgets_the_end_and_all_values(scratch: Scratch, tmp_path: Path) -> None:
    scratch.put("a", 0, 1)
    scratch.finish(None)
    assert scratch.outcome() == (None,)
    scratch.begin()
    scratch.put("a", 1, 1)
    scratch.begin()
    assert scratch.outcome() is None
    assert list(scratch.folder.iterdir()) == []
    assert [path.name for path in (tmp_path / ".bellis" / "scratch").iterdir()] == [scratch.folder.name]


def test_the_end_of_another_version_is_none(scratch: Scratch, tmp_path: Path) -> None:
    scratch.finish(1)
    assert Scratch.of("op", version="2", beside=tmp_path / "out.zarr" / "labels").outcome() is None


def test_what_a_killed_removal_left_is_removed_later(scratch: Scratch) -> None:
    left = scratch.folder.with_name(f"{scratch.folder.name}.0123.removed")
    (left / "a").mkdir(parents=True)
    scratch.finish(1)
    assert not left.exists()


def test_folders_are_beside_the_container_of_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def parent(**options: object) -> Path:
        return Scratch.of("op", version="1", **options).folder.parent  # type: ignore[arg-type]

    assert parent(beside="out.zarr/a/b") == tmp_path / ".bellis" / "scratch"
    assert parent(beside=tmp_path / "table.parquet") == tmp_path / ".bellis" / "scratch"
    assert parent(beside="s3://bucket/out.zarr/a") == tmp_path / ".bellis" / "scratch"
    assert parent(subject="something") == tmp_path / ".bellis" / "scratch"
    assert parent(beside="out.zarr/a", folder="there") == tmp_path / "there"


def test_operations_with_different_outputs_or_names_do_not_share_a_folder() -> None:
    places = [("op", "out.zarr/a"), ("op", "out.zarr/b"), ("o/p", "out.zarr/a"), ("o%2Fp", "out.zarr/a")]
    assert len({Scratch.of(name, version="1", beside=path).folder for name, path in places}) == 4
    assert Scratch.of("op", version="1", beside="a").folder == Scratch.of("op", version="2", beside="a").folder
