"""Read a volume that is on a server, which is slow and fails now and then: each block is fetched once, and kept.

It needs no network: the server is a process on this machine. It starts afresh each time.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import describe, pipeline
from server import LATENCY_S, SIMULATED, Count, Server, started

import bellis
from bellis.volumes import CachedVolume

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

VOLUME = "volume.json"
MADE = ("blocks", "smoothed.zarr", "logs", "bellis_logs")
SIGMAS_NM = (20.0, 60.0)


def main() -> int:
    """Run the demo; return 0 if all went as it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", help="path of a TIFF; by default, the one beside the checkout or a simulated one")
    parser.add_argument("--simulated", action="store_true", help="a simulated stack, even if there is a real one")
    parser.add_argument("--size", type=int, help="only so many voxels along y and x, at least 64")
    parser.add_argument("--output", type=Path, default=Path("demo-remote"), help="folder to write to")
    options = parser.parse_args()
    if options.size is not None and options.size < 64:
        parser.error("--size must be at least 64")
    if options.input is not None and not Path(options.input).exists():
        parser.error(f"--input: there is no {options.input}")
    output = options.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    for name in MADE:
        shutil.rmtree(output / name, ignore_errors=True)

    stack = SIMULATED if options.simulated else options.input or ""
    try:
        with started(stack, options.size) as server:
            demo = Demo(server, output)
            for act in (demo.describe, demo.read, demo.smooth, demo.download, demo.mend, demo.draw):
                act()
    except KeyboardInterrupt:
        return 130
    mean = bellis.open_ds(output / VOLUME).to_ndarray().mean()
    print(f"7. The server has ended, and all of the volume can still be read: its mean is {mean:.1f}.")
    return 0


class Demo:
    """What is shown, one act after the other, and what is noted of it for the picture."""

    def __init__(self, server: Server, output: Path) -> None:
        self.server = server
        self.output = output
        self.description = output / VOLUME
        self.acts: list[tuple[str, float, float]] = []
        self.arrivals: list[list[float]] = []
        self.presence: dict[str, npt.NDArray[np.bool_]] = {}

    def describe(self) -> None:
        """Write the description file."""
        shape = by(self.server.shape)
        print(f"1. {self.server.url} serves {self.server.stack}, {shape} voxels.")
        print(f"   It takes {1000 * LATENCY_S:.0f} ms to answer, and fails now and then.")
        describe(self.description, self.server.url, self.server.shape)
        print(f"   {self.description} describes the volume, and a cache.")

    def read(self) -> None:
        """Read a region, twice."""
        region = tuple(slice(n // 3, n // 3 + n // 4) for n in self.server.shape)
        with CachedVolume(self.description) as volume, self.act("read"):
            before = self.server.count
            voxels = volume[region]
            first = self.server.count
            again = volume[region]
            second = self.server.count
            self.presence["read"] = volume.cache.presence()
        assert (voxels == again).all()
        print(f"2. Reading {by(voxels.shape)} voxels made {first.since(before)}.")
        print(f"   Reading them again made {second.since(first)}.")

    def smooth(self) -> None:
        """Run a task over the volume on two workers, while its blocks are fetched; and another one afterwards."""
        for sigma_nm, title in zip(SIGMAS_NM, ("smooth", "again"), strict=True):
            before, begin_s = self.server.count, time.monotonic()
            with self.act(title):
                task = pipeline(self.description, self.image(sigma_nm), sigma_nm=sigma_nm)
                report = bellis.run(task, workers=2, progress=False, log_dir=self.output / "logs")
            if report.interrupted:
                raise KeyboardInterrupt
            assert report.ok
            made, took_s = self.server.count.since(before), time.monotonic() - begin_s
            number = "3. A" if sigma_nm == SIGMAS_NM[0] else "   Another"
            print(f"{number} Gaussian of {sigma_nm:g} nm over all, on 2 workers, took {took_s:.1f} s and made {made}.")
        self.note_arrivals()

    def download(self) -> None:
        """Fetch all blocks anew, in a process that is killed half way, and in a second one."""
        with CachedVolume(self.description) as volume:
            print("4. The cache is emptied, to be filled by a command.")
            self.bellis("evict", "--all")
            count, half = self.server.count.requests, volume.blocks.num_blocks // 2
            with self.act("killed"), self.command("download") as process:
                while process.poll() is None and self.server.count.requests < count + half:
                    time.sleep(0.005)
                process.kill()
            self.settle(volume)
            kept = self.presence["killed"] = volume.cache.presence()
            first = self.server.count
            print(f"   SIGKILL, after {first.requests - count} requests; {kept.sum()} blocks are there:")
            self.bellis("status", code=1)
            with self.act("go on"):
                self.bellis("download")
            second = self.server.count.since(first)
            asked = self.asked_since(first)
            size = volume.blocks.block_shape
            twice = sum(kept[tuple(at // n for at, n in zip(begin, size, strict=True))] for begin in asked)
            print(f"   That made {second}; {twice} of them for a block that was there.")
            self.note_arrivals()

    def mend(self) -> None:
        """Damage a block on disk, find it, and mend it."""
        with CachedVolume(self.description) as volume:
            path = volume.cache.path_of(tuple(count // 2 for count in volume.blocks.counts))
        body = bytearray(path.read_bytes())
        body[len(body) // 2] ^= 1
        path.write_bytes(body)
        print(f"5. One bit of {path.relative_to(self.output)} is flipped.")
        before = self.server.count
        with self.act("mend"):
            self.bellis("verify", code=1)
            self.bellis("repair")
        print(f"   That made {self.server.count.since(before)}.")
        self.bellis("verify")

    def draw(self) -> None:
        """Draw the picture; matplotlib is loaded only here."""
        from figure import draw

        picture = self.output / "remote.png"
        images = [bellis.open_ds(self.description), *(bellis.open_ds(self.image(sigma)) for sigma in SIGMAS_NM)]
        draw(
            picture,
            acts=self.acts,
            requests=self.server.requests,
            arrivals=self.arrivals,
            presence=self.presence,
            block_shape=images[0].data.chunk_shape,
            images=dict(zip(("raw", *(f"{sigma:g} nm" for sigma in SIGMAS_NM)), images, strict=True)),
        )
        print(f"6. Images are in {self.output / 'smoothed.zarr'}, and a picture of all this is {picture}.")

    def image(self, sigma_nm: float) -> Path:
        """Return the path of what a Gaussian gives."""
        return self.output / "smoothed.zarr" / f"{sigma_nm:g}nm"

    @contextmanager
    def act(self, title: str) -> Iterator[None]:
        """Note when something begins and ends."""
        begin_s = time.monotonic()
        yield
        self.acts.append((title, begin_s, time.monotonic()))

    def asked_since(self, count: Count) -> list[list[int]]:
        """Return where the blocks begin that were asked for after a count."""
        return self.server.requests["begins"][count.requests :]

    def note_arrivals(self) -> None:
        """Note when the blocks that are there came: on the clock of ``time.monotonic``, sorted."""
        offset_s = time.time() - time.monotonic()
        files = (path for path in (self.output / "blocks" / "c").rglob("*") if path.is_file())
        self.arrivals.append(sorted(path.stat().st_mtime - offset_s for path in files))

    def settle(self, volume: CachedVolume) -> None:
        """Wait until the workers of a killed process have ended, as they do by themselves, and the server is idle."""
        while volume.cache.usage().num_leases or len(self.server.requests["times_s"]) > self.server.count.requests:
            time.sleep(0.02)

    @contextmanager
    def command(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Run `bellis volume` in a process."""
        print(f"   $ bellis volume {' '.join(words)} {VOLUME}")
        command = [sys.executable, "-m", "bellis", "volume", *words, VOLUME]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=self.output, **pipes) as process:  # noqa: S603
            try:
                yield process
            finally:
                process.kill()  # of a process that has ended, nothing

    def bellis(self, *words: str, code: int = 0) -> None:
        """Run `bellis volume` to its end, and show what it says."""
        with self.command(*words) as process:
            said, errors = process.communicate()
        print("".join(f"     {line}\n" for line in said.splitlines()), end="")
        if process.returncode != code:
            raise SystemExit(f"{errors}exit code {process.returncode}, where {code} was expected")
        if code:
            print(f"     (exit code {code})")


def by(shape: Sequence[int]) -> str:
    """Return a shape for people."""
    return " x ".join(map(str, shape))


if __name__ == "__main__":
    sys.exit(main())
