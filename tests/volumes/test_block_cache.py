"""The cache of blocks: whole, readable by others, never mixed, and never wrong."""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorstore
import zarr

import bellis
from bellis.arrays.layout import Layout
from bellis.errors import ArrayError, BlockNotReadyError, CacheMismatchError, DamagedBlockError, VolumeError
from bellis.geometry import Roi
from bellis.volumes.blocks import slices_of
from bellis.volumes.cache import MOST_QUARANTINED, BlockCache
from bellis.volumes.owner import Owner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

LAYOUT = Layout.of((20, 17, 9), "uint16", voxel_size=(40, 4, 4), offset=(80, 8, -4))
BLOCK = (8, 8, 8)
SOURCE = {"url": "http://host/em", "metadata": {"dtype": "uint16", "scales": [1, 2]}, "etag": None}
VOXELS = np.random.default_rng(0).integers(0, 2**16, LAYOUT.shape).astype("uint16")

FORKING = """
import os, sys
import numpy as np
from bellis.arrays.layout import Layout
from bellis.geometry import Roi
from bellis.volumes.cache import BlockCache

cache = BlockCache.prepare(sys.argv[1], Layout.of((8, 8), "uint8"), (4, 4), fingerprint={}, max_bytes=1000)
lease = cache.lease((0, 0))
assert lease
assert "tensorstore" not in sys.modules
children = []
for k in range(4):
    pid = os.fork()
    if not pid:
        index, mine = divmod(k, 2), cache.lease((k, 9))
        cache.put(index, np.full((4, 4), k, "uint8"))
        is_right = mine and cache.lease((0, 0)) is None and (cache.read(cache.blocks.box(index)) == k).all()
        mine.release()
        lease.release()
        os._exit(0 if is_right else 3)
    children.append(pid)
assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
assert lease.path.is_symlink()
assert cache.read(Roi((0, 0), (8, 8))).sum() == 96
print("fine")
"""
READ_ONLY = """
import os, sys
import importlib.metadata
import numpy as np
import tensorstore
import bellis.arrays.conventions
from bellis.errors import VolumeError
from bellis.geometry import Roi
from bellis.volumes.cache import BlockCache

importlib.metadata.version("bellis")
if os.getuid() == 0:
    os.setuid(65534)
cache = BlockCache.open(sys.argv[1], max_bytes=100)
print(cache.is_writeable, int(cache.read(Roi((0, 0), (4, 4))).sum()), cache.usage().num_present, cache.sweep())
block = np.zeros((4, 4), "uint8")
for act in (
    lambda: cache.put((0, 0), block),
    lambda: cache.put((1, 1), block),
    lambda: cache.lease((0, 0)),
    lambda: cache.quarantine((0, 0), "x"),
    lambda: cache.drop((0, 0)),
    lambda: BlockCache.prepare(os.path.dirname(sys.argv[1]) + "/new", cache.layout, (4, 4), fingerprint={}),
):
    try:
        act()
    except VolumeError as error:
        print("ermission denied" in str(error))
"""


def prepare(path: Path, **changes: Any) -> BlockCache:
    asked = {"layout": LAYOUT, "block_shape": BLOCK, "fingerprint": SOURCE} | changes
    return BlockCache.prepare(path, asked.pop("layout"), asked.pop("block_shape"), **asked)


def fill(cache: BlockCache, voxels: npt.NDArray[Any] = VOXELS) -> BlockCache:
    for index in np.ndindex(cache.blocks.counts):
        cache.put(index, voxels[slices_of(cache.blocks.box(index))])
    return cache


def block(cache: BlockCache, index: tuple[int, ...]) -> npt.NDArray[Any]:
    return VOXELS[slices_of(cache.blocks.box(index))]


@pytest.fixture
def cache(tmp_path: Path) -> BlockCache:
    return prepare(tmp_path / "cache")


@pytest.mark.parametrize("compression", ["zstd", "blosc", "none"])
def test_others_read_the_folder_as_zarr(tmp_path: Path, compression: Any) -> None:
    path = tmp_path / "cache"
    cache = prepare(path, compression=compression)
    cache.put((1, 0, 0), block(cache, (1, 0, 0)))
    expected = np.zeros_like(VOXELS)
    expected[8:16, :8, :8] = VOXELS[8:16, :8, :8]
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], expected)
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), expected)
    fill(cache)
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[:], VOXELS)
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), VOXELS)
    array = bellis.open_ds(path)
    assert (array.roi, array.voxel_size) == (LAYOUT.roi, LAYOUT.voxel_size)
    np.testing.assert_array_equal(array.to_ndarray(), VOXELS)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float32", "complex64"])
def test_every_data_type_comes_back(tmp_path: Path, dtype: str) -> None:
    voxels = (np.random.default_rng(1).random((5, 3)) * 2).astype(dtype)
    cache = fill(prepare(tmp_path / "c", layout=Layout.of((5, 3), dtype), block_shape=(2, 2)), voxels)
    found = cache.read(Roi((0, 0), (5, 3)))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, voxels)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "c", mode="r")[:], voxels)


def test_a_volume_with_channels_and_of_any_byte_order_comes_back(tmp_path: Path) -> None:
    layout = Layout.of((2, 5, 6, 7), ">u2", voxel_size=(1, 1, 1), axis_names=("c", "z", "y", "x"))
    voxels = np.arange(420, dtype="uint16").reshape(layout.shape)
    cache = fill(prepare(tmp_path / "c", layout=layout, block_shape=(1, 4, 4, 4)), voxels)
    np.testing.assert_array_equal(cache.read(Roi((0, 1, 2, 3), (2, 4, 4, 4))), voxels[:, 1:5, 2:6, 3:7])
    assert prepare(tmp_path / "c", layout=layout, block_shape=(1, 4, 4, 4)).presence().all()


def test_a_region_is_read_once_all_its_blocks_are_there(cache: BlockCache) -> None:
    roi = Roi((6, 6, 6), (4, 4, 3))
    with pytest.raises(BlockNotReadyError, match=r"\[6:10, 6:10, 6:9\].*is missing"):
        cache.read(roi)
    fill(cache)
    np.testing.assert_array_equal(cache.read(roi), VOXELS[6:10, 6:10, 6:9])
    assert cache.drop((1, 1, 1))
    assert not cache.drop((1, 1, 1))
    with pytest.raises(BlockNotReadyError):
        cache.read(roi)


def test_a_block_at_the_end_is_clipped_to_the_volume(cache: BlockCache) -> None:
    assert cache.read_block((2, 2, 1)) is None
    cache.put((2, 2, 1), block(cache, (2, 2, 1)))
    found = cache.read_block((2, 2, 1))
    assert found is not None
    assert found.shape == (4, 1, 1)
    np.testing.assert_array_equal(found, VOXELS[16:, 16:, 8:])
    assert cache.path_of((2, 2, 1)) == cache.directory / "c/2/2/1"


def test_a_block_of_zeros_is_there(cache: BlockCache) -> None:
    cache.put((0, 0, 0), np.zeros(BLOCK, "uint16"))
    assert cache.has((0, 0, 0))
    assert not cache.read(Roi((0, 0, 0), (8, 8, 8))).any()


def test_the_same_block_has_the_same_bytes_whatever_was_stored_before(tmp_path: Path) -> None:
    first, second = prepare(tmp_path / "a"), prepare(tmp_path / "b")
    first.put((0, 0, 0), np.full(BLOCK, 7, "uint16"))
    for cache in (first, second):
        cache.put((2, 2, 1), block(cache, (2, 2, 1)))
    assert first.path_of((2, 2, 1)).read_bytes() == second.path_of((2, 2, 1)).read_bytes()


def test_a_view_of_voxels_in_any_order_is_stored(cache: BlockCache) -> None:
    cache.put((0, 0, 0), VOXELS[:8, :8, :8].T[::-1])
    np.testing.assert_array_equal(cache.read_block((0, 0, 0)), VOXELS[:8, :8, :8].T[::-1])


@pytest.mark.parametrize(
    ("index", "voxels", "words"),
    [
        ((2, 2, 1), np.zeros(BLOCK, "uint16"), r"block \[16:20, 16:17, 8:9\] has shape \(4, 1, 1\)"),
        ((0, 0, 0), np.zeros(BLOCK, "uint8"), "dtype uint16, not .* uint8"),
        ((3, 0, 0), np.zeros(BLOCK, "uint16"), "no block"),
        ((-1, 0, 0), np.zeros(BLOCK, "uint16"), "no block"),
        ((0, 0), np.zeros(BLOCK, "uint16"), "no block"),
    ],
)
def test_what_is_no_block_is_not_stored(
    cache: BlockCache, index: tuple[int, ...], voxels: npt.NDArray[Any], words: str
) -> None:
    with pytest.raises(VolumeError, match=words):
        cache.put(index, voxels)
    assert cache.usage().num_present == 0


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit flip": lambda text: bytes([*text[:100], text[100] ^ 4, *text[101:]]),
    "a flipped checksum": lambda text: text[:-1] + bytes([text[-1] ^ 1]),
    "a truncation": lambda text: text[: len(text) // 2],
    "a byte too few": lambda text: text[:-1],
    "a byte too many": lambda text: text + b"\0",
    "nothing": lambda _: b"",
    "three bytes": lambda _: b"abc",
    "garbage": lambda text: np.random.default_rng(3).bytes(len(text)),
    "zeros": lambda text: bytes(len(text)),
    "a web page": lambda _: b"<html>Service unavailable</html>",
}


@pytest.mark.parametrize("compression", ["zstd", "blosc", "none"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_put_aside_and_repaired(tmp_path: Path, compression: Any, damage: str) -> None:
    if (compression, damage) == ("none", "a byte too many"):
        pytest.skip("what is behind the checksum is not read, and changes no voxel")
    cache = fill(prepare(tmp_path / "c", compression=compression))
    path = cache.path_of((1, 1, 0))
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(DamagedBlockError, match="c/1/1/0"):
        cache.read(Roi((7, 7, 0), (2, 2, 2)))
    with pytest.raises(DamagedBlockError):
        cache.read_block((1, 1, 0))
    cache.quarantine((1, 1, 0), "because")
    assert cache.read_block((1, 1, 0)) is None
    cache.put((1, 1, 0), block(cache, (1, 1, 0)))
    np.testing.assert_array_equal(cache.read(Roi((0, 0, 0), LAYOUT.shape)), VOXELS)
    assert cache.usage().num_quarantined == 1


@pytest.mark.parametrize("other", [{"compression": "none"}, {"compression": "blosc"}, {"block_shape": (4, 4, 4)}])
def test_a_block_of_another_cache_is_damage(tmp_path: Path, other: dict[str, Any]) -> None:
    cache, alien = prepare(tmp_path / "a"), prepare(tmp_path / "b", **other)
    for each in (cache, alien):
        each.put((0, 0, 0), block(each, (0, 0, 0)))
    cache.path_of((0, 0, 0)).write_bytes(alien.path_of((0, 0, 0)).read_bytes())
    with pytest.raises(DamagedBlockError):
        cache.read_block((0, 0, 0))


def test_what_can_not_be_read_is_not_damage(cache: BlockCache) -> None:
    path = cache.path_of((0, 0, 0))
    path.parent.mkdir(parents=True)
    path.symlink_to(path)
    with pytest.raises(VolumeError, match="symbolic links") as caught:
        cache.read(Roi((0, 0, 0), (8, 8, 8)))
    assert not isinstance(caught.value, DamagedBlockError | BlockNotReadyError)


def test_damage_to_the_metadata_is_not_damage_to_a_block(cache: BlockCache) -> None:
    fill(cache)
    for text in ("{", "[]", "{}"):
        (cache.directory / "zarr.json").write_text(text)
        with pytest.raises(VolumeError) as caught:
            pickle.loads(pickle.dumps(cache)).read(Roi((0, 0, 0), (8, 8, 8)))
        assert not isinstance(caught.value, DamagedBlockError | BlockNotReadyError)
        with pytest.raises(VolumeError, match=r"zarr\.json is damaged|zarr\.json is not of the cache"):
            prepare(cache.directory)
    (cache.directory / "zarr.json").unlink()
    assert prepare(cache.directory).read(Roi((0, 0, 0), (8, 8, 8))).any()


def test_quarantine_keeps_the_evidence_and_says_why(cache: BlockCache) -> None:
    cache.put((0, 0, 0), block(cache, (0, 0, 0)))
    text = cache.path_of((0, 0, 0)).read_bytes()
    cache.quarantine((0, 0, 0), "digest mismatch")
    cache.quarantine((0, 0, 0), "it is not there any more")
    kept = sorted((cache.directory / "quarantine").iterdir())
    assert [path.suffix for path in kept] == [".block", ".txt"]
    assert kept[0].read_bytes() == text
    assert "digest mismatch" in kept[1].read_text()


@pytest.mark.slow
def test_quarantine_is_bounded(cache: BlockCache) -> None:
    path = cache.path_of((0, 0, 0))
    path.parent.mkdir(parents=True)
    for k in range(MOST_QUARANTINED + 5):
        path.write_bytes(b"%d" % k)
        cache.quarantine((0, 0, 0), "damaged")
    kept = sorted((cache.directory / "quarantine").iterdir())
    assert len(kept) == 2 * MOST_QUARANTINED
    assert cache.usage().num_quarantined == MOST_QUARANTINED
    assert kept[0].read_bytes() == b"5"


def test_presence_is_of_the_blocks_that_a_region_touches(cache: BlockCache) -> None:
    cache.put((1, 2, 0), block(cache, (1, 2, 0)))
    assert np.argwhere(cache.presence()).tolist() == [[1, 2, 0]]
    assert cache.presence(Roi((7, 16, 0), (2, 1, 9))).tolist() == [[[False, False]], [[True, False]]]
    assert cache.presence(Roi((0, 0, 0), (8, 8, 8))).shape == (1, 1, 1)
    assert cache.presence(Roi((0, 0, 0), (0, 8, 8))).size == 0


def test_presence_by_lists_ignores_what_is_no_block(tmp_path: Path) -> None:
    cache = prepare(tmp_path / "c", layout=Layout.of((100, 9), "uint8"), block_shape=(1, 1))
    for index in ((0, 0), (99, 8), (50, 3)):
        cache.put(index, np.ones((1, 1), "uint8"))
    for name in ("c/0/9", "c/0/007", "c/0/x", "c/100/1", "c/50/3.partial", "c/7"):
        (cache.directory / name).parent.mkdir(exist_ok=True)
        (cache.directory / name).write_bytes(b"")
    assert np.argwhere(cache.presence()).tolist() == [[0, 0], [50, 3], [99, 8]]
    assert cache.usage().num_present == 3
    assert np.argwhere(cache.presence(Roi((50, 0), (50, 9)))).tolist() == [[0, 3], [49, 8]]


def test_a_line_of_blocks_is_found_by_lists(tmp_path: Path) -> None:
    cache = prepare(tmp_path / "c", layout=Layout.of((1000,), "uint8"), block_shape=(10,))
    cache.put((42,), np.ones(10, "uint8"))
    assert np.argwhere(cache.presence()).tolist() == [[42]]
    assert cache.usage().num_bytes == cache.path_of((42,)).stat().st_size


def test_usage_counts(cache: BlockCache) -> None:
    fill(cache)
    lease = cache.lease((0, 0, 0))
    me = Owner.me()
    (cache.directory / "leases/1.lease").write_text(json.dumps({"owner": Owner(me.machine, me.pid, 1).tag}))
    (cache.directory / "c/0/0/0.x.y.partial").write_bytes(b"")
    usage = cache.usage()
    assert lease is not None
    assert (usage.num_blocks, usage.num_present) == (18, 18)
    assert usage.num_bytes == sum(cache.path_of(index).stat().st_size for index in np.ndindex(3, 3, 2))
    assert (usage.num_leases, usage.num_stale_leases, usage.num_partials) == (1, 1, 1)
    assert cache.usage(Roi((0, 0, 0), (8, 8, 9))).num_blocks == 2
    lease.release()


def test_a_sweep_removes_what_the_dead_left_and_nothing_else(cache: BlockCache) -> None:
    fill(cache)
    me = Owner.me()
    dead, far = Owner(me.machine, me.pid, me.start + 1), Owner("0" * 12, 7, 7)
    for owner in (dead, far, me):
        (cache.directory / f"c/0/0/0.{owner.tag}.ab.partial").write_bytes(b"")
        (cache.directory / f"cache.json.{owner.tag}.ab.partial").write_bytes(b"")
    old = cache.directory / f"c/0/0/1.{far.tag}.cd.partial"
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    lease = cache.lease((0, 0, 0))
    (cache.directory / "leases/1.lease").write_text(json.dumps({"owner": dead.tag}))
    assert cache.sweep() == 4
    assert cache.sweep() == 0
    usage = cache.usage()
    assert (usage.num_present, usage.num_leases, usage.num_stale_leases, usage.num_partials) == (18, 1, 0, 4)
    assert lease is not None
    lease.release()


def test_a_cache_is_made_once_and_opened_afterwards(tmp_path: Path) -> None:
    assert BlockCache.open(tmp_path / "c") is None
    made = fill(prepare(tmp_path / "c"))
    again = prepare(tmp_path / "c")
    opened = BlockCache.open(tmp_path / "c", max_bytes=10**9)
    assert opened is not None
    for cache in (made, again, opened):
        assert (cache.layout, cache.blocks.block_shape, cache.compression) == (LAYOUT, BLOCK, "zstd")
        assert cache.fingerprint == SOURCE
        assert cache.presence().all()
    assert opened.max_bytes == 10**9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"block_shape": (4, 8, 8)}, r"block_shape: asked \(4, 8, 8\), found \(8, 8, 8\)"),
        ({"compression": "none"}, "compression: asked none, found zstd"),
        ({"layout": Layout.of((20, 17, 8), "uint16", voxel_size=(40, 4, 4))}, r"shape: asked \(20, 17, 8\), found"),
        ({"layout": Layout.of(LAYOUT.shape, "int16", voxel_size=(40, 4, 4))}, "dtype: asked int16, found uint16"),
        (
            {"fingerprint": SOURCE | {"url": "http://host/b"}},
            "source url: asked 'http://host/b', found 'http://host/em'",
        ),
        (
            {"fingerprint": {"metadata": {"dtype": "uint16", "scales": [2]}}},
            r"source metadata.scales: asked \[2\], found",
        ),
        ({"fingerprint": {"metadata": {"dtype": "uint16"}}}, r"metadata.scales: asked nothing, found \[1, 2\]"),
        ({"fingerprint": {"etag": "x"}}, "source etag: asked 'x', found None"),
        ({"fingerprint": {"new": "x"}}, "source new: asked 'x', found nothing"),
    ],
)
def test_a_cache_that_is_not_as_asked_is_refused_with_each_difference(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    prepare(tmp_path / "c")
    with pytest.raises(CacheMismatchError, match=words) as caught:
        prepare(tmp_path / "c", **change)
    assert "use another directory" in str(caught.value)


def test_part_of_a_fingerprint_can_be_checked(cache: BlockCache) -> None:
    cache.check({})
    cache.check({"url": "http://host/em", "metadata": {"dtype": "uint16", "scales": (1, 2)}})
    with pytest.raises(CacheMismatchError) as caught:
        cache.check({"url": "a", "etag": "b"})
    assert "url" in str(caught.value)
    assert "etag" in str(caught.value)


def test_a_fingerprint_that_is_not_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="not JSON"):
        prepare(tmp_path / "c", fingerprint={"a": object()})
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("change", [{"block_shape": (8, 8)}, {"block_shape": (0, 8, 8)}, {"max_bytes": 1023}])
def test_what_can_not_be_a_cache_is_not_made(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ArrayError):
        prepare(tmp_path / "c", **change)
    assert not (tmp_path / "c").exists()


def test_a_bound_below_one_block_says_so(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"max_bytes is 1000, and one block of \(8, 8, 8\) voxels of uint16 may take"):
        prepare(tmp_path / "c", max_bytes=1000)


@pytest.mark.parametrize("what", ["a file in it", "a zarr array", "an array of ours", "a file", "a half-made array"])
def test_a_folder_that_is_something_else_is_refused_and_left_as_it_is(tmp_path: Path, what: str) -> None:
    path = tmp_path / "folder"
    if what == "a file in it":
        path.mkdir()
        (path / "thesis.tex").write_text("x")
    elif what == "a zarr array":
        zarr.create_array(path, data=VOXELS, chunks=BLOCK)
    elif what == "an array of ours":
        fill(prepare(path))
        (path / "cache.json").unlink()
    elif what == "a file":
        path.write_text("x")
    else:
        path.mkdir()
        (path / "zarr.json.123.partial").write_text("")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert BlockCache.open(path) is None
    with pytest.raises(VolumeError, match=r"is no cache of blocks|can't make the cache"):
        prepare(path)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_what_a_killed_process_leaves_when_it_makes_a_cache_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.mkdir()
    (path / "cache.json.0-1-2.ab.partial").write_text("{")
    cache = fill(prepare(path))
    (path / "zarr.json").unlink()
    assert prepare(path).read(Roi((0, 0, 0), (8, 8, 8))).any()
    (path / "zarr.json").unlink()
    assert BlockCache.open(path) is not None
    assert cache.presence().all()


def test_a_newer_cache_is_refused(cache: BlockCache) -> None:
    marker = cache.directory / "cache.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"format_version": 2, "compression": "magic"}))
    for attempt in (lambda: prepare(cache.directory), lambda: BlockCache.open(cache.directory)):
        with pytest.raises(VolumeError, match=r"made by a newer bellis.*update bellis"):
            attempt()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"kind": "x", "format_version": 1}', '{"kind": "bellis-block-cache"}', "drop"]
)
def test_a_damaged_marker_is_an_error_that_says_so(cache: BlockCache, text: str) -> None:
    marker = cache.directory / "cache.json"
    whole = json.loads(marker.read_text())
    texts = [text] if text != "drop" else [json.dumps({k: v for k, v in whole.items() if k != name}) for name in whole]
    for each in texts:
        marker.write_text(each)
        with pytest.raises(VolumeError, match=r"cache\.json is damaged"):
            BlockCache.open(cache.directory)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("is_same", [True, False])
def test_eight_processes_make_one_cache(tmp_path: Path, is_same: bool) -> None:
    code = (
        "import sys; from bellis.volumes.cache import BlockCache; from bellis.arrays.layout import Layout\n"
        "layout = Layout.of((8, 8), 'uint8'); print('ready', flush=True); sys.stdin.readline()\n"
        "try:\n    BlockCache.prepare(sys.argv[1], layout, (4, 4), fingerprint={'url': sys.argv[2]})\n"
        "except Exception as error:\n    print(type(error).__name__)\n"
        "else:\n    print('made')\n"
    )
    commands = [[sys.executable, "-c", code, str(tmp_path / "c"), "x" if is_same else str(k)] for k in range(8)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for command in commands]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = sorted(process.communicate()[0] for process in processes)
    assert answers == (["made\n"] * 8 if is_same else ["CacheMismatchError\n"] * 7 + ["made\n"])
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["cache.json", "zarr.json"]


def test_it_travels_as_a_description(cache: BlockCache) -> None:
    fill(cache)
    copy = pickle.loads(pickle.dumps(cache))
    assert len(pickle.dumps(cache)) < 2000
    np.testing.assert_array_equal(copy.read(Roi((1, 2, 3), (4, 5, 6))), VOXELS[1:5, 2:7, 3:9])


@pytest.mark.integration
@pytest.mark.slow
def test_what_was_made_before_a_fork_works_after_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING, str(tmp_path / "c")], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")


@pytest.mark.integration
@pytest.mark.slow
def test_threads_put_and_read_at_once(cache: BlockCache) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for k in np.random.default_rng(seed).permutation(18):
                index = tuple(map(int, np.unravel_index(k, (3, 3, 2))))
                cache.put(index, block(cache, index))
                np.testing.assert_array_equal(cache.read_block(index), block(cache, index))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    np.testing.assert_array_equal(cache.read(Roi((0, 0, 0), LAYOUT.shape)), VOXELS)


def test_a_disk_that_is_full_leaves_no_part_of_a_block(tmp_path: Path) -> None:
    cache = prepare(tmp_path / "c", compression="none")
    cache.put((1, 1, 1), block(cache, (1, 1, 1)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))  # the nearest to a full disk that needs no rights
    try:
        with pytest.raises(VolumeError, match=r"can't store .*c/0/0/0"):
            cache.put((0, 0, 0), block(cache, (0, 0, 0)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not cache.has((0, 0, 0))
    assert cache.usage().num_partials == 0
    cache.put((0, 0, 0), block(cache, (0, 0, 0)))


def test_where_voxels_lie_can_be_corrected(tmp_path: Path) -> None:
    fill(prepare(tmp_path / "c"))
    layout = Layout.of(LAYOUT.shape, "uint16", voxel_size=(8, 5, 5), offset=(1, 2, 3), units="um")
    moved = prepare(tmp_path / "c", layout=layout)
    assert moved.layout == layout
    np.testing.assert_array_equal(moved.read(Roi((0, 0, 0), LAYOUT.shape)), VOXELS)
    assert pickle.loads(pickle.dumps(moved)).layout == layout


@pytest.mark.integration
@pytest.mark.slow
def test_a_cache_in_a_read_only_folder_is_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("shared")
    for folder in (path, *[above for above in path.parents if "pytest-" in str(above)]):
        folder.chmod(0o755)
    cache = prepare(path / "c", layout=Layout.of((8, 8), "uint8"), block_shape=(4, 4))
    cache.put((0, 0), np.full((4, 4), 7, "uint8"))
    folders = [path / "c", path / "c/c", path / "c/c/0"]
    for folder in folders:
        folder.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(path / "c")], capture_output=True, text=True, check=False
    )
    for folder in folders:
        folder.chmod(0o755)
    assert (done.stdout, done.stderr) == ("False 112 1 0\n" + "True\n" * 6, "")


@pytest.mark.slow
def test_presence_of_many_blocks_is_quick(tmp_path: Path) -> None:
    cache = prepare(tmp_path / "c", layout=Layout.of((40, 40, 40), "uint8"), block_shape=(1, 1, 1))
    for z, y in np.ndindex(20, 40):
        folder = cache.path_of((z, y, 0)).parent
        folder.mkdir(parents=True)
        for x in range(0, 40, 4):
            (folder / str(x)).touch()
    found = cache.presence()
    assert found.sum() == 8000
    assert found[:20, :, ::4].all()
