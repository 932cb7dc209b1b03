"""The cache against a dictionary of arrays: whatever happens to its files, it never returns a wrong voxel."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from bellis.arrays.layout import Layout
from bellis.errors import BlockNotReadyError, DamagedBlockError
from bellis.geometry import Roi
from bellis.volumes.blocks import slices_of
from bellis.volumes.cache import BlockCache

if TYPE_CHECKING:
    import numpy.typing as npt

SHAPE, BLOCK = (9, 7), (4, 3)
INDICES = st.tuples(st.integers(0, 2), st.integers(0, 2))


def replace(path: Path, text: bytes) -> None:
    """Put another file in place of one: within one tick of the clock, a changed one would look like the same."""
    other = path.with_name("other")
    other.write_bytes(text)
    other.replace(path)


@st.composite
def regions(draw: st.DrawFn) -> Roi:
    begin = [draw(st.integers(0, n - 1)) for n in SHAPE]
    return Roi(begin, [draw(st.integers(1, n - at)) for n, at in zip(SHAPE, begin, strict=True)])


class CacheMachine(RuleBasedStateMachine):
    """Blocks are put, dropped, damaged, put aside and read in any order, through two handles."""

    @initialize(
        compression=st.sampled_from(["zstd", "blosc", "none"]),
        dtype=st.sampled_from(["uint8", "float32"]),
        seed=st.integers(0, 2**16),
    )
    def begin(self, compression: Any, dtype: str, seed: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.layout = Layout.of(SHAPE, dtype, voxel_size=(4, 4))
        self.options: dict[str, Any] = {"fingerprint": {"url": "x"}, "compression": compression}
        self.bound: int | None = None
        self.voxels: npt.NDArray[Any] = np.random.default_rng(seed).integers(0, 3, SHAPE).astype(dtype)
        self.state: dict[tuple[int, ...], str] = {}
        self.num_quarantined = 0
        self.cache = self.opened()
        self.reader = self.opened()

    def opened(self) -> BlockCache:
        path = Path(self.folder.name) / "c"
        return BlockCache.prepare(path, self.layout, BLOCK, max_bytes=self.bound, **self.options)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def box(self, index: tuple[int, ...]) -> tuple[slice, ...]:
        return slices_of(self.cache.blocks.box(index))

    @rule(index=INDICES)
    def put(self, index: tuple[int, ...]) -> None:
        self.cache.put(index, self.voxels[self.box(index)])
        assert self.cache.has(index)
        self.state[index] = "sound"
        self.forget_dropped()

    @rule(index=INDICES)
    def drop(self, index: tuple[int, ...]) -> None:
        assert self.cache.drop(index) == (index in self.state)
        self.state.pop(index, None)

    @precondition(lambda self: self.state)
    @rule(data=st.data(), how=st.sampled_from(["flip", "truncate", "empty", "garbage"]))
    def damage(self, data: st.DataObject, how: str) -> None:
        index = data.draw(st.sampled_from(sorted(self.state)))
        path = self.cache.path_of(index)
        text = bytearray(path.read_bytes())
        if how == "flip" and text:
            text[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
        elif how == "truncate":
            text = text[: data.draw(st.integers(0, max(0, len(text) - 1)))]
        else:
            text = bytearray() if how == "empty" else bytearray(data.draw(st.binary(min_size=1, max_size=30)))
        replace(path, bytes(text))
        self.state[index] = "damaged"

    @rule(index=INDICES)
    def quarantine(self, index: tuple[int, ...]) -> None:
        self.cache.quarantine(index, "a test")
        self.num_quarantined += self.state.pop(index, None) is not None
        assert self.cache.usage().num_quarantined == self.num_quarantined

    @rule(num_bytes=st.integers(0, 400))
    def evict(self, num_bytes: int) -> None:
        self.cache.evict(max_bytes=num_bytes)
        self.forget_dropped()
        assert self.cache.usage().num_bytes <= num_bytes

    @rule(bound=st.one_of(st.none(), st.integers(48, 500)))
    def reopen(self, bound: int | None) -> None:
        self.bound = bound
        self.cache = self.opened()

    @rule(roi=regions())
    def read(self, roi: Roi) -> None:
        states = {self.state.get(index, "missing") for index in self.cache.blocks.touched(roi)}
        for handle in (self.cache, self.reader):
            try:
                found = handle.read(roi)
            except BlockNotReadyError:
                assert "missing" in states
            except DamagedBlockError:
                assert "damaged" in states
            else:
                assert states == {"sound"}
                np.testing.assert_array_equal(found, self.voxels[slices_of(roi)])

    @rule(index=INDICES)
    def read_block(self, index: tuple[int, ...]) -> None:
        state = self.state.get(index, "missing")
        if state == "damaged":
            with pytest.raises(DamagedBlockError):
                self.reader.read_block(index)
            return
        found = self.reader.read_block(index)
        assert (found is None) == (state == "missing")
        if found is not None:
            np.testing.assert_array_equal(found, self.voxels[self.box(index)])

    @rule(roi=st.one_of(st.none(), regions()))
    def presence(self, roi: Roi | None) -> None:
        whole = Roi((0, 0), SHAPE) if roi is None else roi
        expected = [index in self.state for index in self.cache.blocks.touched(whole)]
        assert self.reader.presence(roi).ravel().tolist() == expected
        assert self.reader.usage(roi).num_present == sum(expected)

    @rule()
    def sweep(self) -> None:
        assert self.cache.sweep() == 0

    def forget_dropped(self) -> None:
        """Take note of what was evicted."""
        self.state = {index: state for index, state in self.state.items() if self.cache.has(index)}


TestCacheMachine = pytest.mark.slow(CacheMachine.TestCase)
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["zstd", "blosc", "none"])
def test_no_flipped_bit_of_a_block_goes_unnoticed(tmp_path: Path, compression: Any) -> None:
    cache = BlockCache.prepare(
        tmp_path / "c", Layout.of((4, 3), "uint8"), BLOCK, fingerprint={}, compression=compression
    )
    cache.put((0, 0), np.arange(12, dtype="uint8").reshape(4, 3))
    path = cache.path_of((0, 0))
    text = path.read_bytes()
    for k in range(8 * len(text)):
        damaged = bytearray(text)
        damaged[k // 8] ^= 1 << k % 8
        replace(path, bytes(damaged))
        with pytest.raises(DamagedBlockError):
            cache.read_block((0, 0))
