"""Ctrl-C, errors and the end of a script are not held up by servers that say nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bellis.testing.cutouts import volume_server
from bellis.testing.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bellis.testing.cutouts import VolumeServer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SCRIPTS = {
    "read": "volume[0:8, 0:8, 0:8]",
    "download": "volume.download_all_blocks(4)",
    "uncached": "RemoteVolume(sys.argv[1])[0:8, 0:8, 0:8]",
}
START = """
import sys
from bellis.volumes import CachedVolume, RemoteVolume
volume = CachedVolume(sys.argv[1])
print("begun", flush=True)
"""


@pytest.fixture(params=["stall", "stall in body", "500"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[VolumeServer, Path]]:
    with volume_server(np.ones((8, 8, 8), "uint8")) as server:
        server.faults = [Fault(request.param)]
        said = {**server.description("raw"), "patience": {"deadline_s": 40, "stall_s": 40, "longest_wait_s": 20}}
        path = tmp_path / "volume.json"
        path.write_text(json.dumps({**said, "cache": {"directory": "blocks", "block_shape": [4, 4, 4]}}))
        yield server, path


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_interrupt_ends_what_waits_for_a_server(served: tuple[VolumeServer, Path], script: str) -> None:
    server, description = served
    command = [sys.executable, "-c", START + SCRIPTS[script], str(description)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        while not server.num_requests:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert time.monotonic() - begun < 5
    assert "KeyboardInterrupt" in said
