"""What goes wrong with arrays on a disk: each is an ArrayError that says where, and is repaired by writing again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import bellis
from bellis import Block, Roi, Task
from bellis.arrays import Array, open_ds, prepare_ds
from bellis.errors import ArrayError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow]

STORAGE: dict[str, dict[str, Any]] = {
    "blosc": {},
    "zstd": {"compressor": "zstd"},
    "gzip": {"compressor": "gzip"},
    "plain": {"compressor": None},
    "shards": {"shard_shape": (16, 16), "chunk_shape": (8, 8)},
}
NOISE = np.random.default_rng(0).integers(0, 60_000, (32, 32), dtype=np.uint16)


def stored(path: Path, **options: Any) -> Array:
    """Make an array of four files, each of 16 x 16 voxels."""
    array = prepare_ds(path, NOISE.shape, dtype="uint16", **{"chunk_shape": (16, 16), **options})
    array[array.roi] = NOISE
    return array


# Damaged files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("damage", ["truncated", "emptied", "overwritten"])
def test_a_damaged_chunk_is_an_error_until_it_is_written_again(tmp_path: Path, storage: str, damage: str) -> None:
    if (storage, damage) == ("plain", "overwritten"):
        pytest.skip("voxels that are stored as they are can be anything")
    array = stored(tmp_path / "a.zarr", **STORAGE[storage])
    chunk = tmp_path / "a.zarr" / "c" / "0" / "1"
    whole = chunk.read_bytes()
    chunk.write_bytes({"truncated": whole[: len(whole) // 2], "emptied": b"", "overwritten": bytes(len(whole))}[damage])
    for damaged in (array, open_ds(tmp_path / "a.zarr")):
        with pytest.raises(ArrayError, match=r"can't read voxels \[0:32, 0:32\] of .*/a\.zarr: .*/c/0/1.*repairs it"):
            damaged.to_ndarray()
        np.testing.assert_array_equal(damaged[Roi((16, 0), (16, 32))], NOISE[16:])
    with pytest.raises(ArrayError, match=r"can't write voxels \[2:4, 18:20\]"):
        array[Roi((2, 18), (2, 2))] = 1  # what is around them would be lost
    array[Roi((0, 16), (16, 16))] = NOISE[:16, 16:]
    np.testing.assert_array_equal(open_ds(tmp_path / "a.zarr"), NOISE)


def test_a_missing_chunk_is_an_error_if_that_is_asked_until_it_is_written_again(tmp_path: Path) -> None:
    array = stored(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "c" / "0" / "1").unlink()
    with pytest.raises(ArrayError, match=r"can't read voxels \[0:32, 0:32\] of .*c/0/1.* is missing; .*missing='fill'"):
        open_ds(tmp_path / "a.zarr", missing="error").to_ndarray()
    array[Roi((0, 16), (16, 16))] = NOISE[:16, 16:]
    np.testing.assert_array_equal(open_ds(tmp_path / "a.zarr", missing="error"), NOISE)


@pytest.mark.parametrize("version", [2, 3])
def test_whatever_metadata_says_only_array_errors_come_of_it(tmp_path: Path, version: int) -> None:
    """Each value in it, in turn, is taken away or replaced by nonsense."""
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)  # type: ignore[arg-type]
    stored(tmp_path / "a.zarr/raw", **(STORAGE["shards"] if version == 3 else {}))
    refused = 0
    for name in ("zarr.json",) if version == 3 else (".zarray", ".zattrs"):
        file = tmp_path / "a.zarr" / "raw" / name
        text = file.read_text()
        for broken in variants(json.loads(text)):
            file.write_text(json.dumps(broken))
            answer = refusal(tmp_path / "a.zarr/raw")
            assert answer is None or "raw" in answer, f"of {broken}: {answer}"
            refused += answer is not None
        for cut in range(0, len(text) - 1, 37):
            file.write_text(text[:cut])
            with pytest.raises(ArrayError, match=r"raw.* is not JSON"):
                open_ds(tmp_path / "a.zarr/raw")
        file.write_text(text)
    assert refused > 50
    np.testing.assert_array_equal(open_ds(tmp_path / "a.zarr/raw"), NOISE)


@pytest.mark.parametrize("version", [2, 3])
def test_whatever_the_metadata_of_an_image_says_only_array_errors_come_of_it(tmp_path: Path, version: int) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)  # type: ignore[arg-type]
    group.create_array("0", data=NOISE, chunks=(16, 16))
    scale = {"type": "scale", "scale": [4.0, 4.6]}
    shift = {"type": "translation", "translation": [40.0, 46.0]}
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "yx"]
    datasets = [{"path": "0", "coordinateTransformations": [scale, shift]}]
    entry = {"name": "em", "axes": axes, "datasets": datasets}
    attributes: dict[str, Any] = (
        {"ome": {"version": "0.5", "multiscales": [entry]}}
        if version == 3
        else {"multiscales": [{**entry, "version": "0.4"}]}
    )
    group.attrs.update(attributes)
    assert open_ds(tmp_path / "a.zarr").voxel_size == (4000, 4600)
    for broken in [*filter(lambda found: isinstance(found, dict), variants(attributes)), {}]:
        group.attrs.clear()
        group.attrs.update(broken)
        for path in ("a.zarr", "a.zarr/0"):
            answer = refusal(tmp_path / path)
            assert answer is None or "a.zarr" in answer, f"of {broken}: {answer}"


def refusal(path: Path) -> str | None:
    """Return the message of the ArrayError by which an array is not read; None if it is."""
    try:
        open_ds(path).to_ndarray()
    except ArrayError as error:
        return str(error)
    return None


def variants(value: Any) -> list[Any]:
    """Return what a JSON value becomes if one value in it is taken away or replaced."""
    found = [] if isinstance(value, dict) else [None, "x", -1, 1.5, 10**30, [], [[]], {}, {"a": []}]
    if isinstance(value, dict):
        found += [None, "x", [], 3]
        for key in value:
            found.append({k: v for k, v in value.items() if k != key})
            found += [{**value, key: broken} for broken in variants(value[key])]
    if isinstance(value, list):
        found += [[*value, *value], value[1:]]
        found += [[*value[:k], broken, *value[k + 1 :]] for k in range(len(value)) for broken in variants(value[k])]
    return found


# What the system refuses -----------------------------------------------------------------------------------------

UNPRIVILEGED = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: by them, root reads and writes anything
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
"""
TRY = """
import sys
import numpy as np
from bellis import ArrayError, Roi, open_ds, prepare_ds
path = sys.argv[1]
roi = Roi((0, 0), (16, 16))
def attempt(what, action):
    try:
        action()
    except ArrayError as error:
        print(what, str(error).replace(chr(10), " "))
    else:
        print(what, "went well")
"""


def answers(script: str, path: Path, *before: str) -> dict[str, str]:
    """Run a script in a process that may do less than root; return what came of each of its attempts."""
    command = [*before, sys.executable, "-c", UNPRIVILEGED, TRY + script, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return dict(line.split(" ", 1) for line in ran.stdout.splitlines())  # type: ignore[misc]


def test_what_may_not_be_read_or_written_is_an_error_with_its_path(tmp_path: Path) -> None:
    stored(tmp_path / "a.zarr/raw")
    stored(tmp_path / "a.zarr/secret")
    (tmp_path / "a.zarr/raw/c/0/0").chmod(0)
    (tmp_path / "a.zarr/raw/c/1").chmod(0o500)
    (tmp_path / "a.zarr/secret/zarr.json").chmod(0)
    (tmp_path / "a.zarr").chmod(0o500)
    (tmp_path / "a.zarr/secret").chmod(0o500)
    try:
        found = answers(
            """
attempt("chunk", lambda: open_ds(path, "raw").to_ndarray())
attempt("write", lambda: open_ds(path, "raw", "r+").__setitem__(roi + (16, 0), np.ones((16, 16), np.uint16)))
attempt("metadata", lambda: open_ds(path, "secret"))
attempt("make", lambda: prepare_ds(path, "new", Roi((0, 0), (8, 8)), (1, 1), "u1"))
attempt("replace", lambda: prepare_ds(path + "/secret", (8, 8), dtype="u1", mode="w"))
attempt("open", lambda: open_ds(path + "/secret", mode="r+"))
""",
            tmp_path / "a.zarr",
        )
    finally:
        for place in ("a.zarr", "a.zarr/secret", "a.zarr/raw/c/1"):
            (tmp_path / place).chmod(0o700)
    place = f"{tmp_path}/a.zarr"
    assert f"can't read voxels [0:32, 0:32] of {place}/raw" in found["chunk"]
    assert "Permission denied" in found["chunk"]
    assert f"can't write voxels [16:32, 0:16] of {place}/raw" in found["write"]
    assert "Permission denied" in found["write"]
    for what, where in {"metadata": "secret/zarr.json", "make": "new", "replace": "secret", "open": "secret"}.items():
        assert f"{place}/{where}" in found[what], what
        assert "ermission denied" in found[what], what
    stored(tmp_path / "a.zarr/raw")
    np.testing.assert_array_equal(open_ds(tmp_path / "a.zarr/raw"), NOISE)


FILL_UP = """
attempt("first", lambda: open_ds(path, "raw", "r+").__setitem__(roi, np.full((16, 16), 7, np.uint16)))
noise = np.random.default_rng(0).integers(0, 60_000, (1024, 1024), dtype=np.uint16)
big = prepare_ds(path + "/big", noise.shape, dtype="uint16", chunk_shape=(512, 512))
attempt("full", lambda: big.__setitem__(big.roi, noise))
attempt("more", lambda: prepare_ds(path + "/more", (8, 8), dtype="u1", attrs={"text": "x" * 900_000}))
attempt("read", lambda: open_ds(path, "raw").to_ndarray())
from pathlib import Path
left = [found for found in Path(path).rglob("*") if found.name.endswith((".partial", ".__lock"))]
print("left", left)
"""


def check_full(found: dict[str, str], place: str, reason: str) -> None:
    assert found["first"] == "went well"
    assert f"can't write voxels [0:1024, 0:1024] of {place}/big: " in found["full"]
    assert reason in found["full"]
    assert f"{place}/more" in found["more"]
    assert reason in found["more"]
    assert found["read"] == "went well"


def test_a_file_that_may_not_grow_is_an_error_and_a_second_run_repairs(tmp_path: Path) -> None:
    stored(tmp_path / "a.zarr/raw")
    limits = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
"""
    found = answers(limits + FILL_UP, tmp_path / "a.zarr")
    check_full(found, f"{tmp_path}/a.zarr", "File too large")
    assert found["left"] == "[]"
    big = prepare_ds(tmp_path / "a.zarr/big", (1024, 1024), dtype="uint16", chunk_shape=(512, 512))
    big[big.roi] = 5
    assert (open_ds(tmp_path / "a.zarr/big").to_ndarray() == 5).all()
    assert prepare_ds(tmp_path / "a.zarr/more", (8, 8), dtype="u1").shape == (8, 8)


def test_a_full_disk_is_an_error_with_the_region(tmp_path: Path) -> None:
    """On a disk of 1 MB, which only the process that fills it sees."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=1m tmpfs "{disk}" && exec "$0" "$@"'
    private = ("unshare", "--mount", "sh", "-c", mount)
    if subprocess.run([*private, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a disk")
    prepare = 'prepare_ds(path + "/raw", (32, 32), dtype="uint16", chunk_shape=(16, 16))\n'
    found = answers(prepare + FILL_UP, disk / "a.zarr", *private)
    check_full(found, f"{disk}/a.zarr", "No space left on device")
    assert found["left"] == "[]"


# What does not fit -----------------------------------------------------------------------------------------------


def test_what_does_not_fit_an_array_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    array = stored(tmp_path / "a.zarr", units="um")
    for match, roi, value in (
        ("outside", Roi((16, 16), (32, 32)), 1),
        ("outside", Roi((-1, 0), (2, 2)), 1),
        ("has 3 dimensions", Roi((0, 0, 0), (1, 1, 1)), 1),
        ("shape", Roi((0, 0), (2, 2)), np.ones((2, 3), np.uint16)),
        ("dtype int64", Roi((0, 0), (2, 2)), np.ones((2, 2), np.int64)),
        ("does not hold the value -1", Roi((0, 0), (2, 2)), -1),
        ("does not hold the value 1.5", Roi((0, 0), (2, 2)), 1.5),
        ("voxel size", Roi((0, 0), (4, 4)), Array(np.ones((2, 2), np.uint16), voxel_size=(2, 2), units="um")),
    ):
        with pytest.raises(ArrayError, match=match):
            array[roi] = value
    with pytest.raises(ArrayError, match="outside"):
        array.to_ndarray(Roi((16, 16), (32, 32)))
    with pytest.raises(ArrayError, match="unit"):
        open_ds(tmp_path / "a.zarr", unit="s")
    with pytest.raises(ArrayError, match="2 are due"):
        open_ds(tmp_path / "a.zarr", axis_names=("x",))
    with pytest.raises(ArrayError, match="exists, and is not as asked"):
        prepare_ds(tmp_path / "a.zarr", (32, 32), dtype="uint8")
    np.testing.assert_array_equal(open_ds(tmp_path / "a.zarr"), NOISE)


# What is repaired ------------------------------------------------------------------------------------------------

WRITE_FOR_EVER = """
import sys
import numpy as np
from bellis import open_ds
array = open_ds(sys.argv[1], mode="r+")
for value in range(1, 1_000_000):
    array[array.roi] = np.full(array.shape, value % 1000 + 1, np.uint16)
    if value == 3:
        print("begun", flush=True)
"""


def test_a_process_that_is_killed_while_it_writes_leaves_whole_chunks(tmp_path: Path) -> None:
    array = stored(tmp_path / "a.zarr")
    for _ in range(3):
        command = [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path / "a.zarr")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"begun\n"
            writer.kill()
        voxels = open_ds(tmp_path / "a.zarr").to_ndarray()
        for y in (0, 16):
            for x in (0, 16):
                assert len(np.unique(voxels[y : y + 16, x : x + 16])) == 1
    array[array.roi] = NOISE
    np.testing.assert_array_equal(open_ds(tmp_path / "a.zarr"), NOISE)


def double(block: Block) -> None:
    """Write twice what was read, of the arrays in the folder that BELLIS_FAULTS says."""
    folder = os.environ["BELLIS_FAULTS"]
    found = open_ds(f"{folder}/in.zarr").to_ndarray(block.read_roi)
    open_ds(f"{folder}/out.zarr", mode="r+")[block.write_roi] = found // 2


def test_a_run_over_a_damaged_chunk_says_so_and_a_second_run_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BELLIS_FAULTS", str(tmp_path))
    source = stored(tmp_path / "in.zarr")
    target = prepare_ds(tmp_path / "out.zarr", source.roi, (1, 1), "uint16", write_size=(16, 16))
    chunk = tmp_path / "in.zarr" / "c" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])

    def run() -> Any:
        block = Roi((0, 0), (16, 16))
        task = Task("double", source.roi, block, block, double, max_retries=1, read_write_conflict=False)
        return bellis.run(task, "inline", journal=tmp_path / "journal", log_dir=tmp_path / "logs", progress=False)

    report = run()
    assert not report.ok
    assert report.tasks["double"].counts.completed == 3
    assert "can't read voxels [16:32, 0:16]" in report.failures[0].error
    source[Roi((16, 0), (16, 16))] = NOISE[16:, :16]
    assert run().ok
    np.testing.assert_array_equal(open_ds(target.path), NOISE // 2)
