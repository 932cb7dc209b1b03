"""The example of a volume from elsewhere: it shows what it says, and what it writes is what whole arrays would give."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import bellis
from bellis.testing.specimen import specimen
from bellis.volumes import CachedVolume

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

ndimage = pytest.importorskip("scipy.ndimage")
tifffile = pytest.importorskip("tifffile")
psutil = pytest.importorskip("psutil")
pytest.importorskip("matplotlib")

EXAMPLE = Path(__file__).parents[2] / "examples" / "remote"
DATA = Path(__file__).parents[3] / "shared" / "data" / "vnc_stack1_raw.tif"
SIGMAS_NM = (20, 60)
VOXEL_PM = (50_000, 4_600, 4_600)

pytestmark = [pytest.mark.end_to_end, pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]


def run_demo(*words: str, cwd: Path) -> str:
    command = [sys.executable, EXAMPLE / "demo.py", *words]
    answer = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stderr == ""
    return answer.stdout


def servers(output: Path) -> list[int]:
    """Processes of the server whose URL the description has."""
    port = int(re.search(r"127\.0\.0\.1:(\d+)", (output / "volume.json").read_text())[1])
    listening = psutil.net_connections("tcp")
    return [line.pid for line in listening if line.status == psutil.CONN_LISTEN and line.laddr.port == port]


def counts(said: str) -> list[tuple[int, int, int]]:
    """Requests, blocks sent and failures, wherever the demo tells of them."""
    pattern = r"(?:(\d+) requests? \((\d+) blocks? sent, (\d+) failed\)|no request)"
    return [tuple(int(n or 0) for n in found) for found in re.findall(pattern, said)]


def check(said: str, output: Path, stack: npt.NDArray[np.uint8]) -> None:
    """Compare what the demo has printed and written with the stack."""
    shape = " x ".join(map(str, stack.shape))
    assert f", {shape} voxels." in said
    with CachedVolume(output / "volume.json") as volume:
        num_blocks = volume.blocks.num_blocks
        assert volume.cache.presence().all()
        np.testing.assert_array_equal(volume.array.to_ndarray(), stack)
        assert volume.layout.voxel_size == VOXEL_PM
        assert volume.cache.usage().num_quarantined == 1

    read, again, smooth, another, rest, mended = counts(said)
    for requests, sent, failed in (read, smooth, rest, mended):
        assert requests == sent + failed
    assert again == another == (0, 0, 0)
    assert read[1] + smooth[1] == num_blocks  # while it was filled by two workers, too
    assert mended[1] == 1
    assert smooth[2] > 0
    kept = int(re.search(r"SIGKILL, after \d+ requests; (\d+) blocks are there", said)[1])
    assert f": {kept} of {num_blocks} in the view are there" in said
    assert 0 < kept < num_blocks
    assert rest[1] == num_blocks - kept
    assert f"{num_blocks - kept} blocks fetched, 0 missing" in said
    assert "failed); 0 of them for a block that was there" in said
    assert said.count("(exit code 1)") == 2
    assert f"{num_blocks} blocks read, 1 damaged, 0 missing" in said
    assert "1 fetched again, 0 could not be" in said
    assert f"{num_blocks} blocks read, 0 damaged, 0 missing" in said

    for sigma_nm in SIGMAS_NM:
        sigma_px = [sigma_nm / edge for edge in (50, 4.6, 4.6)]
        whole = ndimage.gaussian_filter(stack, sigma_px, output=np.float32, truncate=4.0)
        image = bellis.open_ds(output / "smoothed.zarr" / f"{sigma_nm}nm")
        assert image.voxel_size == VOXEL_PM
        np.testing.assert_allclose(image.to_ndarray(), whole, rtol=1e-6)
    assert (output / "remote.png").read_bytes().startswith(b"\x89PNG")
    mean = float(re.search(r"The server has ended, .* its mean is (\d+\.\d)", said)[1])
    assert mean == pytest.approx(stack.mean(), abs=0.06)
    assert servers(output) == []


def test_the_demo_shows_what_it_says_and_starts_afresh(tmp_path: Path) -> None:
    output = tmp_path / "demo-remote"
    simulated = specimen().grey[:, :100, :100]
    said = run_demo("--simulated", "--size", "100", cwd=tmp_path)
    assert "serves a simulated stack" in said
    check(said, output, simulated)

    (output / "notes.txt").touch()  # nothing is removed but what it has made
    mine = np.random.default_rng(3).integers(0, 255, (5, 6, 40)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "mine.tif", mine)
    said = run_demo("--input", "mine.tif", cwd=tmp_path)
    assert "serves mine.tif" in said
    check(said, output, mine)
    assert (output / "notes.txt").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"demo-remote", "mine.tif"}


@contextmanager
def begun(*words: str, cwd: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the demo, wait until it has read, and yield it and what it has said; next, it runs a task."""
    command = [sys.executable, "-u", EXAMPLE / "demo.py", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=cwd, text=True, start_new_session=True, **pipes) as process:
        said = ""
        try:
            while "made" not in said:
                line = process.stdout.readline()
                assert line, process.stderr.read()
                said += line
            yield process, said
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.skipif(not DATA.exists(), reason="needs the real stack")
def test_the_demo_shows_the_real_stack_if_it_is_there(tmp_path: Path) -> None:
    with begun("--size", "128", "--output", "here", cwd=tmp_path) as (_, said):
        assert f"serves {DATA.name}, 20 x 128 x 128 voxels" in said
        shutil.copy(tmp_path / "here" / "volume.json", tmp_path)  # beside it is another cache
        with CachedVolume(tmp_path / "volume.json") as volume:
            np.testing.assert_array_equal(volume[5:9, 20:60, 100:], tifffile.imread(DATA)[5:9, 20:60, 100:128])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_the_server_ends_with_the_demo(tmp_path: Path, number: signal.Signals) -> None:
    with begun("--simulated", "--size", "100", cwd=tmp_path) as (process, _):
        children = psutil.Process(process.pid).children(recursive=True)
        (server,) = servers(tmp_path / "demo-remote")
        assert server in [child.pid for child in children]
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    assert servers(tmp_path / "demo-remote") == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [(("--size", "9"), "--size must be at least 64"), (("--input", "none.tif"), "there is no none.tif")],
)
def test_what_can_not_be_shown_is_refused(tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    command = [sys.executable, EXAMPLE / "demo.py", *words]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert reason in answer.stderr
    assert list(tmp_path.iterdir()) == []
