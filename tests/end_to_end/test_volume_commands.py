"""`bellis volume`: each command as a process, against a real server."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_array_equal

from bellis import open_ds
from bellis.cli import main
from bellis.testing.cutouts import VolumeServer, volume_server
from bellis.volumes import BlockwiseFileset, CachedVolume
from volumes.served import NUM_BLOCKS, Served, served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

pytestmark = [pytest.mark.end_to_end, pytest.mark.integration]

BOCK = Path(__file__).parents[3] / "shared" / "data" / "bock11-description.json"
KEYS = {
    *("description", "kind", "name", "source", "folder", "axes", "shape", "dtype", "block_shape", "view_begin"),
    *("view_shape", "num_blocks", "num_present", "num_missing", "num_bytes", "max_bytes", "compression"),
    *("num_quarantined", "num_leases", "num_stale_leases", "num_partials", "num_locks", "num_legacy"),
    *("is_checked", "is_complete"),
}


@pytest.fixture
def em(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.chdir(tmp_path)
    with served(tmp_path) as found:
        yield found


def bellis(*words: str, code: int = 0) -> str:
    """Run a command as a process; return what it prints."""
    done = subprocess.run([sys.executable, "-m", "bellis", *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def within(*words: str, code: int = 0) -> str:
    """Run a command in this process, which is quicker."""
    result: Result = CliRunner().invoke(main, ["volume", *words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def fetch(*words: str, code: int = 0) -> str:
    return within("download", "em.json", "--engine", "inline", "-q", *words, code=code)


def status(name: str = "em.json", *, code: int = 0) -> dict[str, object]:
    found = json.loads(within("status", name, "--json", code=code))
    assert set(found) == KEYS
    return found  # type: ignore[no-any-return]


def damage(em: Served, *indices: tuple[int, ...]) -> list[Path]:
    with CachedVolume(em.description) as volume:
        paths = [volume.cache.path_of(index) for index in indices]
    for path in paths:
        body = bytearray(path.read_bytes())
        body[len(body) // 2] ^= 8
        path.write_bytes(body)
    return paths


@pytest.mark.slow
def test_download_status_verify_repair_evict_and_export_as_processes(em: Served) -> None:
    assert "nothing is kept" in bellis("volume", "verify", "em.json", code=1)
    shown = bellis("volume", "download", "em.json")
    assert "em: 18 blocks fetched, 0 missing" in shown
    assert "download: 1/1 blocks, done in" in shown
    assert len(em.asked) == NUM_BLOCKS
    found = json.loads(bellis("volume", "status", "em.json", "--json"))
    assert (found["num_blocks"], found["num_present"], found["is_complete"]) == (NUM_BLOCKS, NUM_BLOCKS, True)
    assert "18 blocks read, 0 damaged, 0 missing" in bellis("volume", "verify", "em.json")
    damage(em, (0, 1, 1))
    assert "damaged: block at (0, 8, 8)" in bellis("volume", "verify", "em.json", code=1)
    assert "1 fetched again, 0 could not be, 0 missing" in bellis("volume", "repair", "em.json")
    assert em.asked["0/1/1"] == 2
    bellis("volume", "export", "em.json", "out.n5", "--roi", "2:12,0:24,3:")
    assert_array_equal(open_ds("out.n5").to_ndarray(), em.voxels[2:12, :, 3:])
    assert "dropped 18 blocks" in bellis("volume", "evict", "em.json", "--all")
    assert "0 of 18 in the view are there (0 %), 18 missing" in bellis("volume", "status", "em.json", code=1)


def test_a_status_makes_nothing_and_asks_nothing(em: Served) -> None:
    requests = sum(em.asked.values())
    found = status(code=1)
    assert found["shape"] is None
    assert (found["kind"], found["num_blocks"], found["is_complete"]) == ("cached", None, False)
    assert "not known before the first read" in within("status", "em.json", code=1)
    assert not em.cache.exists()
    assert sum(em.asked.values()) == requests


def test_a_status_tells_what_is_there(em: Served) -> None:
    fetch("--roi", "0:8,0:8,:")
    em.cache.joinpath("c", "0", "0", "x.partial").touch()
    found = status(code=1)
    assert (found["num_present"], found["num_missing"]) == (2, NUM_BLOCKS - 2)
    assert found["source"] == f"{em.url}/em.zarr"
    assert (found["shape"], found["dtype"], found["block_shape"]) == ([20, 24, 16], "uint8", [8, 8, 8])
    assert (found["view_begin"], found["view_shape"], found["axes"]) == ([0, 0, 0], [20, 24, 16], ["z", "y", "x"])
    assert found["num_bytes"] == sum(file.stat().st_size for file in em.cache.glob("c/*/*/?"))
    assert found["folder"] == str(em.cache)
    assert "2 of 18 in the view are there (11 %), 16 missing" in within("status", "em.json", code=1)


def test_a_status_of_a_view_counts_its_blocks(em: Served) -> None:
    fetch("--roi", "0:8,0:8,:")
    em.describe("part.json", view={"origin": [0, 0, 9], "shape": [17, 8, 7]}, cache={"directory": "em-blocks"})
    found = status("part.json", code=1)
    assert (found["num_blocks"], found["num_present"]) == (3, 1)
    within("download", "part.json", "-q", "--engine", "inline")
    assert status("part.json")["is_complete"] is True
    assert set(em.asked) == {"0/0/0", "0/0/1", "1/0/1", "2/0/1"}


@pytest.mark.skipif(not BOCK.exists(), reason="needs shared data")
def test_a_status_of_a_real_description_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bock11.json"
    shutil.copy(BOCK, path)
    began = time.perf_counter()
    found = status(str(path), code=1)
    assert time.perf_counter() - began < 1
    assert found["view_shape"] == [1233, 2560, 2560]
    assert found["block_shape"] == [32, 256, 256]
    assert (found["num_blocks"], found["num_present"], found["num_missing"]) == (3900, 0, 3900)
    assert [entry.name for entry in tmp_path.iterdir()] == ["bock11.json"]


def test_a_status_of_a_tree_of_lazyflow_counts_what_is_available(tmp_path: Path) -> None:
    said = {
        "_schema_name": "blockwise-fileset-description", "_schema_version": 1.0, "name": "tree", "format": "hdf5",
        "axes": "zyx", "shape": [40, 40, 40], "dtype": "uint8", "block_shape": [20] * 3, "view_origin": "[20, 0, 0]",
        "block_file_name_format": "b-{roiString}.h5/cube", "dataset_root_dir": "tree",
    }  # fmt: skip
    (tmp_path / "tree.json").write_text(json.dumps(said))
    places = [("z_00000020", "y_00000000", "x_00000020"), ("z_00000000", "y_00000000", "x_00000000")]
    for place in places:
        folder = tmp_path.joinpath("tree", *place)
        folder.mkdir(parents=True)
        (folder / "STATUS.txt").write_text("1")
        (folder / "b.h5").write_bytes(b"12345")
    begin = [20, 0, 20]
    (folder.parents[2].joinpath(*places[0]) / f"b-({begin}, [40, 20, 40]).h5.lock").touch()
    found = status(str(tmp_path / "tree.json"), code=1)
    assert (found["kind"], found["num_blocks"], found["num_present"], found["num_locks"]) == ("fileset", 4, 1, 1)
    assert found["num_bytes"] == 6
    assert "1 locks of lazyflow" in within("status", str(tmp_path / "tree.json"), code=1)


def test_a_download_names_the_blocks_that_did_not_come(em: Served) -> None:
    em.statuses = {"0/0/1": 404, "1/2/0": 403}
    shown = fetch(code=1)
    assert "em: 16 blocks fetched, 2 missing" in shown
    assert "  missing: block at (0, 0, 8): " in shown
    assert "  missing: block at (8, 16, 0): " in shown
    em.statuses = {}
    assert fetch() == ""
    assert "0 blocks fetched, 0 missing" in within("download", "em.json", "--engine", "inline")


def test_of_many_failed_blocks_the_first_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with served(tmp_path, (40, 40, 8), (8, 8, 8)) as em:
        em.statuses = {f"{z}/{y}/0": 404 for z in range(5) for y in range(5)}
        shown = fetch(code=1)
    assert shown.count("missing: block at") == 20
    assert "missing: 5 more" in shown


def test_a_cache_with_a_bound_is_told_to_be_the_reason(em: Served) -> None:
    em.describe(cache={"max_bytes": "4kB"})
    shown = fetch(code=1)
    assert "is not there; the cache keeps at most 4 kB" in shown
    assert int(str(status(code=1)["num_bytes"])) <= 4000
    assert "of at most 4 kB" in within("status", "em.json", code=1)


@pytest.mark.slow
def test_a_part_is_complete_by_itself(em: Served) -> None:
    with served(em.folder, (48, 48, 48), (8, 8, 8), "large") as large:
        for number in (1, 2):
            within("download", "large.json", "--part", f"{number}/2", "--engine", "inline", "-q")
            assert status("large.json", code=2 - number)["is_complete"] is (number == 2)
        assert set(large.asked.values()) == {1}


def test_verify_names_damaged_and_missing_blocks_and_changes_nothing(em: Served) -> None:
    fetch()
    [path] = damage(em, (1, 1, 1))
    body = path.read_bytes()
    shown = within("verify", "em.json", "--engine", "inline", "-q", code=1)
    assert "18 blocks read, 1 damaged, 0 missing; `bellis volume repair`" in shown
    assert "damaged: block at (8, 8, 8): " in shown
    assert path.read_bytes() == body
    assert status()["num_quarantined"] == 0
    within("evict", "em.json", "--roi", "0:1,0:1,0:1")
    assert "17 blocks read, 1 damaged, 1 missing" in within("verify", "em.json", "--engine", "inline", "-q", code=1)
    assert sum(em.asked.values()) == NUM_BLOCKS


@pytest.mark.slow
def test_repair_fetches_damaged_blocks_and_tells_which_could_not_be(em: Served) -> None:
    fetch()
    damage(em, (0, 0, 0), (2, 2, 1))
    em.statuses = {"0/0/0": 404}
    shown = within("repair", "em.json", "--engine", "inline", "-q", code=1)
    assert "1 fetched again, 1 could not be" in shown
    assert "damaged: block at (0, 0, 0): " in shown
    assert status(code=1)["num_quarantined"] == 2
    em.statuses = {}
    assert "0 could not be, 1 missing" in within("repair", "em.json", "--engine", "inline", "-q", code=1)
    fetch()
    assert within("repair", "em.json", "--engine", "inline", "-q") == ""
    assert_array_equal(open_ds("em.json").to_ndarray(), em.voxels)


def test_evict_drops_what_is_asked_for(em: Served) -> None:
    fetch()
    size = int(str(status()["num_bytes"]))
    assert "dropped 6 blocks" in within("evict", "em.json", "--roi", "0:8,0:24,0:16")
    assert status(code=1)["num_present"] == 12
    within("evict", "em.json", "--max-bytes", f"{size // 3}B")
    assert int(str(status(code=1)["num_bytes"])) <= size // 3
    within("evict", "em.json", "--all")
    assert status(code=1)["num_present"] == 0


def test_export_keeps_place_and_what_it_reads(em: Served) -> None:
    words = ("export", "em.json", "out.zarr", "--roi", "8:16,:,:", "--dtype", "uint16", "--engine", "inline", "-q")
    within(*words)
    copied = open_ds("out.zarr")
    assert copied.dtype == "uint16"
    assert copied.roi.begin == (400 + 8 * 40, 0, 8)
    assert_array_equal(copied.to_ndarray(), em.voxels[8:16])
    assert status(code=1)["num_present"] == 6
    assert set(em.asked.values()) == {1}
    within(*words)
    assert set(em.asked.values()) == {1}
    assert Path(".bellis/export-out.zarr").is_dir()


def test_export_fails_if_a_block_does_not_come_and_is_retried_by_its_journal(em: Served) -> None:
    em.statuses = {"0/0/0": 404}
    within("export", "em.json", "out.zarr", "--engine", "inline", "-q", code=1)
    em.statuses = {}
    result = CliRunner().invoke(main, ["retry", ".bellis/export-out.zarr", "-q"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert_array_equal(open_ds("out.zarr").to_ndarray(), em.voxels)


@pytest.mark.slow
def test_a_status_tells_what_is_fetched_now(em: Served) -> None:
    em.describe(parallel=2)
    em.latency_s = 0.2
    with subprocess.Popen([sys.executable, "-m", "bellis", "volume", "download", "em.json", "-q"]) as process:
        leases = 0
        while not leases and process.poll() is None:
            leases = int(str(json.loads(within("status", "em.json", "--json", code=1))["num_leases"]))
        assert 0 < leases <= 4
        assert process.wait(60) == 0
    assert status()["num_leases"] == status()["num_stale_leases"] == 0


@pytest.mark.parametrize("command", ["verify", "repair"])
def test_of_a_volume_of_which_nothing_is_kept_all_is_missing(em: Served, command: str) -> None:
    shown = within(command, "em.json", code=1)
    assert "nothing is kept of em.json" in shown
    assert "bellis volume download em.json" in shown


def test_a_token_in_a_url_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = "http://127.0.0.1:9/{x_start}-{x_stop}?token=s3cret"
    source = {"url_format": url, "payload": "raw", "axes": "x", "dtype": "uint8", "shape": [4]}
    said = {"_schema_name": "bellis-volume-description", "_schema_version": 1.0, "name": "em", "source": source}
    Path("em.json").write_text(json.dumps(said))
    for words in (("status", "em.json"), ("status", "em.json", "--json")):
        shown = within(*words, code=1)
        assert "s3cret" not in shown
        assert "127.0.0.1:9" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("download", "em.json", "--part", "5/4"), "parts are 1/4 to 4/4"),
        (("download", "em.json", "--part", "two"), "is not a part like 2/4"),
        (("download", "em.json", "--roi", "0:21,0:1,0:1"), "0:21 of axis z is not inside of the view"),
        (("download", "em.json", "--roi", "3:3,0:1,0:1"), "holds no voxels"),
        (("download", "em.json", "--roi", "0:1"), "all of it is 0:20,0:24,0:16"),
        (("download", "em.json", "--roi", "a:b,0:1,0:1"), "'a:b' of axis z is not begin:end"),
        (("download", "em.json", "--engine", "lokal"), "lokal"),
        (("export", "em.json", "o.zarr", "--roi", "0:1,0:1"), "has 2 of begin:end"),
        (("status", "nothing.json"), "nothing.json"),
        (("status", "typo.json"), "block_shape"),
        (("status", "other.json"), "_schema_name"),
        (("status", "broken.json"), "broken.json"),
        (("download", "server.json"), "has no cache"),
        (("evict", "em.json"), "say what to drop"),
        (("evict", "em.json", "--all", "--roi", "0:1,0:1,0:1"), "say what to drop"),
        (("evict", "em.json", "--max-bytes", "lots"), "like 500MB or 2GB"),
    ],
)
def test_bad_input_is_a_message(em: Served, words: tuple[str, ...], message: str) -> None:
    em.describe("typo.json", cache={"blok_shape": [8, 8, 8]})
    Path("other.json").write_text("{}")
    Path("broken.json").write_text("{")
    server = {
        "_schema_name": "RESTful-volume-description",
        "_schema_version": 1.0,
        "name": "s",
        "format": "hdf5",
        "axes": "zyx",
        "bounds": [4, 4, 4],
        "dtype": "uint8",
        "hdf5_dataset": "cube",
        "url_format": "http://127.0.0.1:9/{x_start}-{x_stop}/{y_start}-{y_stop}/{z_start}-{z_stop}",
    }
    Path("server.json").write_text(json.dumps(server))
    shown = within(*words, code=2)
    assert message in shown
    assert "Traceback" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_download_that_is_killed_goes_on_with_the_rest(em: Served, seed: int) -> None:
    em.describe(parallel=2)
    em.latency_s = 0.05
    most = random.Random(seed).randrange(1, NUM_BLOCKS)
    command = [sys.executable, "-m", "bellis", "volume", "download", "em.json", "-q"]
    with subprocess.Popen(command, start_new_session=True) as process:
        while sum(em.asked.values()) < most and process.poll() is None:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
    time.sleep(em.latency_s)
    with CachedVolume(em.description) as volume:
        stored = {"/".join(map(str, at)) for at in np.argwhere(volume.cache.presence())}
    em.asked.clear()
    bellis("volume", "download", "em.json", "-q")
    assert stored.isdisjoint(em.asked)
    assert len(stored) + len(em.asked) == NUM_BLOCKS
    bellis("volume", "repair", "em.json", "-q")
    assert_array_equal(open_ds("em.json").to_ndarray(), em.voxels)
    assert status()["num_stale_leases"] == status()["num_partials"] == 0


def legacy(server: VolumeServer, **said: Any) -> dict[str, Any]:
    """Write lazyflow's description ``em.json``, and the local part of it; return it."""
    found = server.legacy_description(block_shape=[16, 16, 16], **said)
    Path("em.json").write_text(json.dumps(found))
    Path("local.json").write_text(json.dumps(found["local_description"]))
    return found


@pytest.fixture
def cutouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VolumeServer]:
    monkeypatch.chdir(tmp_path)
    voxels = np.random.default_rng(1).integers(0, 255, (40, 36, 34), dtype=np.uint8)
    with volume_server(voxels, payloads=["hdf5", "npz"], origin=(5, 0, 7), folder=tmp_path / "stored") as server:
        yield server


def test_a_download_takes_over_what_lazyflow_has_fetched(cutouts: VolumeServer) -> None:
    legacy(cutouts, view_origin=[16, 0, 0])
    with BlockwiseFileset("local.json", "r+") as tree:
        for begin in ((0, 0, 0), (0, 16, 0)):
            tree.write_data(tree.get_entire_block_roi(begin), cutouts.volume[16:32, begin[1] : begin[1] + 16, :16])
            tree.set_block_status(begin, tree.BLOCK_AVAILABLE)
    lock = next(Path("blocks/z_00000016/y_00000000/x_00000000").glob("*.h5"))
    lock.with_name(f"{lock.name}.lock").touch()
    found = status(code=1)
    assert (found["num_blocks"], found["num_present"], found["num_legacy"], found["num_locks"]) == (18, 0, 2, 1)
    assert found["num_missing"] == 16
    assert "2 blocks, taken over when read" in within("status", "em.json", code=1)
    assert (status("local.json", code=1)["num_present"], cutouts.num_requests) == (2, 0)
    fetch()
    assert cutouts.num_requests == 16
    assert_array_equal(open_ds("em.json").to_ndarray(), cutouts.volume[16:])
    assert "leftovers of killed processes were removed" in within("repair", "em.json", "--engine", "inline")
    assert status()["num_locks"] == 0


def test_a_tree_of_lazyflow_and_its_server_are_arrays(cutouts: VolumeServer) -> None:
    said = legacy(cutouts)
    Path("remote.json").write_text(json.dumps(said["remote_description"]))
    within("export", "remote.json", "out.zarr", "--engine", "inline", "-q", "--roi", "3:20,:,:")
    assert_array_equal(open_ds("out.zarr").to_ndarray(), cutouts.volume[3:20])
    with BlockwiseFileset("local.json", "r+") as tree:
        tree.write_data(tree.get_entire_block_roi((0, 0, 0)), cutouts.volume[:16, :16, :16])
        tree.set_block_status((0, 0, 0), tree.BLOCK_AVAILABLE)
    within("export", "local.json", "part.n5", "--engine", "inline", "-q", "--roi", "0:16,0:16,3:16")
    assert_array_equal(open_ds("part.n5").to_ndarray(), cutouts.volume[:16, :16, 3:16])
    within("export", "local.json", "all.n5", "--engine", "inline", "-q", code=1)
    shown = within("status", "remote.json")
    assert "none are kept" in shown


def test_a_status_says_whether_what_is_sent_has_a_checksum(cutouts: VolumeServer) -> None:
    Path("em.json").write_text(json.dumps(cutouts.description("npz", block_shape=[16, 16, 16])))
    found = status(code=1)
    assert (found["is_checked"], found["num_blocks"]) == (True, 27)
    assert "in transit   has a checksum" in within("status", "em.json", code=1)
    assert not cutouts.num_requests


def test_what_is_there_is_looked_at_without_a_server(cutouts: VolumeServer) -> None:
    Path("em.json").write_text(json.dumps(cutouts.chunked_description()))
    fetch()
    cutouts.clear()
    assert status()["is_complete"] is True
    for words in (("verify", "em.json"), ("repair", "em.json"), ("download", "em.json")):
        within(*words, "--engine", "inline", "-q")
    within("export", "em.json", "out.n5", "--engine", "inline", "-q")
    within("evict", "em.json", "--all")
    assert status(code=1)["num_present"] == 0
    assert not cutouts.num_requests
    assert_array_equal(open_ds("out.n5").to_ndarray(), cutouts.volume)


@pytest.mark.slow
def test_an_interrupted_download_ends_with_130_and_goes_on_later(cutouts: VolumeServer) -> None:
    cutouts.latency_s = 0.1
    said = cutouts.description("npz", block_shape=[8, 8, 8], parallel=2)
    Path("em.json").write_text(json.dumps(said))
    with subprocess.Popen([sys.executable, "-m", "bellis", "volume", "download", "em.json", "-q"]) as process:
        while cutouts.num_requests < 8 and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    cutouts.latency_s = 0
    bellis("volume", "download", "em.json", "-q")
    assert cutouts.num_requests == 125


@pytest.mark.slow
def test_two_processes_with_a_part_each_fill_everything(em: Served) -> None:
    with served(em.folder, (48, 48, 48), (8, 8, 8), "large") as large:
        command = [sys.executable, "-m", "bellis", "volume", "download", "large.json", "-q", "--part"]
        processes = [subprocess.Popen([*command, part]) for part in ("1/2", "2/2")]
        assert [process.wait(60) for process in processes] == [0, 0]
        assert set(large.asked.values()) == {1}
    assert status("large.json")["is_complete"] is True
