"""What servers send, as voxels; and everything else that they may send."""

from __future__ import annotations

import gzip
import io
import pickle
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from bellis.errors import ArrayError, FetchError, TransientError
from bellis.testing.payloads import IMAGES, PAYLOADS, encode
from bellis.volumes.descriptions import CutoutDescription
from bellis.volumes.payload import decode, is_checked

if TYPE_CHECKING:
    from bellis.volumes.descriptions import Payload

DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint64", "float16", "float32", "float64", "complex64")
DATASET = "volumes/cutout"


def described(payload: Payload, dtype: Any = "u1", axes: str = "zyx", sent: str = "", order: str = "<") -> Any:
    return CutoutDescription(
        url_format="http://127.0.0.1/{x_start}",
        payload=payload,
        axes=tuple(axes),
        payload_axes=tuple(sent or axes),
        dtype=np.dtype(dtype),
        payload_dtype=np.dtype(dtype).newbyteorder(order),
        shape=(100,) * len(axes),
        origin_offset=(0,) * len(axes),
        hdf5_dataset=DATASET if payload == "hdf5" else None,
    )


def voxels_of(shape: tuple[int, ...], dtype: Any = "u1", seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2 if dtype == "bool" else 120, shape).astype(dtype)


def body_of(payload: Payload, voxels: Any, *, checksum: bool = False) -> bytes:
    return encode(voxels, payload, hdf5_dataset=DATASET, checksum=checksum)


def can_be(payload: Payload, dtype: str) -> bool:
    numbers = {"png": ("uint8", "uint16"), "jpeg": ("uint8",)}.get(payload, DTYPES)
    return dtype in numbers and not (payload == "tiff" and dtype == "bool")


@pytest.mark.slow
@settings(max_examples=150)
@given(data=st.data())
def test_what_is_sent_is_what_comes(data: st.DataObject) -> None:
    payload = data.draw(st.sampled_from([name for name in PAYLOADS if name != "jpeg"]))
    dtype = data.draw(st.sampled_from([name for name in DTYPES if can_be(payload, name)]))
    axes = data.draw(st.sampled_from(["zyx", "czyx", "tzyxc", "yx"]))
    sent = "".join(data.draw(st.permutations(axes)))
    order = data.draw(st.sampled_from("<>"))
    shape = tuple(data.draw(st.integers(1, 6)) for _ in axes)
    voxels = voxels_of(shape, dtype)
    in_order = voxels.transpose([axes.index(axis) for axis in sent])
    found = decode(
        body_of(payload, in_order.astype(in_order.dtype.newbyteorder(order))),
        described(payload, dtype, axes, sent, order),
        shape,
    )
    np.testing.assert_array_equal(found.voxels, voxels)
    assert found.voxels.dtype == voxels.dtype
    assert found.voxels.dtype.isnative
    assert found.voxels.flags.c_contiguous
    assert found.is_checked == is_checked(payload)


def test_a_jpeg_is_nearly_what_was_sent() -> None:
    y, x = np.mgrid[:32, :16]
    voxels = np.stack([4 * y + x, 3 * x + y]).astype("u1")
    found = decode(body_of("jpeg", voxels), described("jpeg"), voxels.shape)
    assert np.abs(found.voxels.astype(int) - voxels).max() < 6


@pytest.mark.parametrize("payload", ["hdf5", "npy", "raw", "npz"])
def test_gzip_around_a_body_is_taken_off_and_checks_it(payload: Payload) -> None:
    voxels = voxels_of((3, 4, 5))
    body = gzip.compress(body_of(payload, voxels))
    found = decode(body, described(payload), voxels.shape)
    np.testing.assert_array_equal(found.voxels, voxels)
    assert found.is_checked
    for bad in (body[:-9], body[:-20] + b"\0" + body[-19:], body + b"\0"):
        with pytest.raises(TransientError, match="gzip"):
            decode(bad, described(payload), voxels.shape)


@pytest.mark.parametrize("payload", ["hdf5", "npy", "npz"])
def test_a_channel_axis_of_length_1_is_accepted_and_no_other_shape(payload: Payload) -> None:
    voxels = voxels_of((3, 4, 5))
    found = decode(body_of(payload, voxels[None, None]), described(payload), voxels.shape)
    np.testing.assert_array_equal(found.voxels, voxels)
    for other in (
        voxels.reshape(3, 5, 4),
        voxels[..., None],
        voxels.reshape(3, 1, 4, 5),
        voxels.reshape(60),
        voxels[1:],
    ):
        with pytest.raises(FetchError, match=r"asked for voxels of shape \(3, 4, 5\).*the server sent shape"):
            decode(body_of(payload, other), described(payload), voxels.shape)


@pytest.mark.parametrize("payload", [name for name in PAYLOADS if name not in ("raw", "blosc")])
def test_a_sound_body_of_another_shape_or_dtype_is_no_reason_to_ask_again(payload: Payload) -> None:
    voxels = voxels_of((3, 4, 5))
    others = [voxels_of((3, 4, 6)), voxels_of((2, 4, 5))]
    if payload != "jpeg":
        others.append(voxels.astype("u2"))
    for other in others:
        with pytest.raises(FetchError, match=r"asked for .*\b(sent|has)\b") as refused:
            decode(body_of(payload, other), described(payload), voxels.shape)
        assert not isinstance(refused.value, TransientError)


@pytest.mark.parametrize("payload", ["raw", "blosc"])
def test_too_many_bytes_are_of_another_shape_or_dtype(payload: Payload) -> None:
    with pytest.raises(FetchError, match=r"shape \(3, 4, 5\) and dtype uint8: 60 .*sent .*120") as refused:
        decode(body_of(payload, voxels_of((3, 4, 5), "u2")), described(payload), (3, 4, 5))
    assert not isinstance(refused.value, TransientError)


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize(
    "page",
    [b"<!DOCTYPE html><html><body>Please sign in.</body></html>", b'{"error": "no such cut-out"}', b"Busy.\n", b""],
)
def test_a_page_in_place_of_voxels_is_quoted(payload: Payload, page: bytes) -> None:
    with pytest.raises(TransientError) as refused:
        decode(page, described(payload), (4, 4, 4))
    assert repr(page.decode())[:20] in str(refused.value) if page else "empty" in str(refused.value)


def test_a_page_that_is_as_long_as_the_voxels_is_none_of_them() -> None:
    page = b"<!DOCTYPE html>".ljust(64)
    with pytest.raises(TransientError, match="DOCTYPE"):
        decode(page, described("raw"), (4, 4, 4))


@pytest.mark.parametrize("payload", [*PAYLOADS, "hdf5 with checksums"])
def test_a_body_that_is_cut_anywhere_is_never_voxels(payload: Any) -> None:
    kind = payload.split()[0]
    voxels = voxels_of((2, 8, 8))
    body = body_of(kind, voxels, checksum="with" in payload)
    for end in range(0, len(body), max(1, len(body) // 400)):
        with pytest.raises(TransientError):
            decode(body[:end], described(kind), voxels.shape)
    with pytest.raises(TransientError):
        decode(body[:-1], described(kind), voxels.shape)


@pytest.mark.slow
@pytest.mark.parametrize("payload", [*PAYLOADS, "hdf5 with checksums", "raw in gzip"])
@settings(max_examples=100)
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=3))
def test_flipped_bits_are_found_by_what_has_a_checksum_and_crash_nothing(
    payload: Any, flips: list[tuple[float, int]]
) -> None:
    kind = payload.split()[0]
    voxels = voxels_of((2, 8, 8))
    body = bytearray(body_of(kind, voxels, checksum="checksums" in payload))
    if "gzip" in payload:
        body = bytearray(gzip.compress(body, mtime=0))
    for place, bit in flips:
        body[int(place * len(body))] ^= 1 << bit
    try:
        found = decode(bytes(body), described(kind), voxels.shape)
    except FetchError:
        return
    assert found.voxels.shape == voxels.shape
    if found.is_checked or kind in ("npz", "png"):
        np.testing.assert_array_equal(found.voxels, voxels)


@pytest.mark.slow
@pytest.mark.parametrize("payload", [*PAYLOADS, "hdf5 with checksums"])
def test_every_single_bit_may_flip(payload: Any) -> None:
    kind = payload.split()[0]
    voxels = voxels_of((2, 4, 8))
    body = body_of(kind, voxels, checksum="with" in payload)
    step = max(1, len(body) * 8 // 2000)
    outcomes = {"right": 0, "refused": 0, "wrong": 0}
    for bit in range(0, len(body) * 8, step):
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found = decode(bytes(flipped), described(kind), voxels.shape)
        except FetchError:
            outcomes["refused"] += 1
            continue
        is_right = np.array_equal(found.voxels, voxels)
        outcomes["right" if is_right else "wrong"] += 1
        assert is_right or not found.is_checked
    assert outcomes["refused"] or kind == "raw"
    if kind in ("npz", "png"):
        assert outcomes["wrong"] == 0


@pytest.mark.parametrize("payload", PAYLOADS)
@settings(max_examples=100)
@given(body=st.binary(max_size=400), is_like=st.booleans())
def test_random_bytes_crash_nothing(payload: Payload, body: bytes, is_like: bool) -> None:
    if is_like:
        body = body_of(payload, voxels_of((2, 2, 2)))[:32] + body
    try:
        found = decode(body, described(payload), (2, 2, 2))
    except FetchError:
        return
    assert found.voxels.shape == (2, 2, 2)


# What must not be followed, evaluated or unfolded ----------------------------------------------------------------


class Trap:
    def __reduce__(self) -> Any:
        return exit, (3,)


def test_nothing_is_unpickled() -> None:
    objects = np.array([[Trap(), Trap()]], dtype=object)
    npy = io.BytesIO()
    np.lib.format.write_array(npy, objects, allow_pickle=True)
    for kind, body in (("npy", npy.getvalue()), ("npz", _npz(objects)), ("hdf5", _pickled_hdf5())):
        with pytest.raises(FetchError, match="dtype uint8, the server sent"):
            decode(body, described(kind, axes="yx"), (1, 2))  # type: ignore[arg-type]


def _npz(objects: Any) -> bytes:
    npz = io.BytesIO()
    np.savez(npz, objects)
    return npz.getvalue()


def _pickled_hdf5() -> bytes:
    body = io.BytesIO()
    with h5py.File(body, "w") as file:
        made = file.create_dataset(DATASET, (1, 2), dtype=h5py.vlen_dtype(np.uint8))
        made[0, 0] = np.frombuffer(pickle.dumps(Trap()), "u1")
    return body.getvalue()


def test_a_header_is_not_run() -> None:
    header = b"{'descr': exit(3), 'fortran_order': False, 'shape': (1,), }\n"
    body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0"
    with pytest.raises(TransientError, match="header"):
        decode(body, described("npy"), (1, 1, 1))


def test_a_header_nested_without_end_is_refused() -> None:
    for header in (b"(" * 4000, b"-" * 4000, b"{'descr': " + b"[" * 3000, b"9" * 4000):
        body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0"
        with pytest.raises(TransientError, match="header"):
            decode(body, described("npy"), (1, 1, 1))


def _hdf5(make: Any) -> bytes:
    body = io.BytesIO()
    with h5py.File(body, "w") as file:
        make(file)
    return body.getvalue()


def test_hdf5_is_read_from_the_body_alone(tmp_path: Path) -> None:
    voxels = voxels_of((2, 3, 4))
    outside = tmp_path / "secret.h5"
    outside.write_bytes(_hdf5(lambda file: file.create_dataset("a", data=voxels)))
    (tmp_path / "secret.raw").write_bytes(voxels.tobytes())
    layout = h5py.VirtualLayout(voxels.shape, "u1")
    layout[:] = h5py.VirtualSource(str(outside), "a", voxels.shape)
    followed: dict[str, Any] = {
        "ExternalLink": lambda file: file.__setitem__(DATASET, h5py.ExternalLink(str(outside), "/a")),
        "SoftLink": lambda file: file.__setitem__(DATASET, h5py.SoftLink("/elsewhere")),
        "outside": lambda file: file.create_virtual_dataset(DATASET, layout),
        "outside ": lambda file: file.create_dataset(
            DATASET, voxels.shape, "u1", external=[(str(tmp_path / "secret.raw"), 0, voxels.nbytes)]
        ),
    }
    for match, make in followed.items():
        with pytest.raises(FetchError, match=match):
            decode(_hdf5(make), described("hdf5"), voxels.shape)


def test_an_hdf5_file_without_the_dataset_says_what_it_has() -> None:
    body = _hdf5(lambda file: file.create_dataset("volumes/other", data=np.zeros((2, 2, 2), "u1")))
    with pytest.raises(FetchError, match=r"'volumes/cutout'.*has volumes"):
        decode(body, described("hdf5"), (2, 2, 2))
    body = _hdf5(lambda file: file.create_group(DATASET))
    with pytest.raises(FetchError, match="no dataset"):
        decode(body, described("hdf5"), (2, 2, 2))


def test_chunks_that_were_never_written_are_not_zeros() -> None:
    body = _hdf5(lambda file: file.create_dataset(DATASET, (4, 4, 4), "u1", chunks=(2, 4, 4)))
    with pytest.raises(TransientError, match="0 of the 2 chunks"):
        decode(body, described("hdf5"), (4, 4, 4))
    body = _hdf5(lambda file: file.create_dataset(DATASET, (4, 4, 4), "u1"))
    with pytest.raises(TransientError, match="not all voxels"):
        decode(body, described("hdf5"), (4, 4, 4))


@pytest.mark.parametrize("options", [{"compression": "gzip", "shuffle": True}, {"compression": "lzf"}, {}])
def test_compressed_hdf5_is_read(options: dict[str, Any]) -> None:
    voxels = voxels_of((5, 6, 7), "u2")
    body = _hdf5(lambda file: file.create_dataset(DATASET, data=voxels, chunks=(3, 3, 3), **options))
    np.testing.assert_array_equal(decode(body, described("hdf5", "u2"), voxels.shape).voxels, voxels)


@pytest.mark.slow
def test_bombs_do_not_go_off(tmp_path: Path) -> None:
    """Each is small, and would unfold to 64 MiB or more, most to 128; the voxels that were asked for have 64 bytes."""
    large = np.zeros((1 << 27,), "u1")
    zeros = zlib.compress(large.tobytes(), 9)

    def chunk(file: Any) -> None:
        made = file.create_dataset(DATASET, (4, 4, 4), "u1", chunks=(4, 4, 4), compression="gzip")
        made.id.write_direct_chunk((0, 0, 0), zeros)

    page = io.BytesIO()
    tifffile.imwrite(page, np.zeros((1, 4, 4), "u1"), compression="zlib", metadata=None)
    grown = bytearray(page.getvalue())
    bombs: list[tuple[Payload, bytes]] = [
        ("npz", encode(large.reshape(1, 1, -1), "npz")),
        ("hdf5", _hdf5(chunk)),
        ("npy", gzip.compress(encode(large.reshape(1, 1, -1), "npy"))),
        ("raw", gzip.compress(large.tobytes())),
        ("png", imagecodecs.png_encode(np.zeros((1 << 13, 1 << 14), "u1"))),
        ("jpeg", imagecodecs.jpeg8_encode(np.zeros((1 << 13, 1 << 13), "u1"))),
        ("blosc", encode(large, "blosc")),
        ("tiff", encode(large.reshape(1, 1 << 13, 1 << 14), "tiff")),
        ("tiff", bytes(grown).replace(zlib.compress(bytes(16)), zeros)),
    ]
    for k, (payload, body) in enumerate(bombs):
        assert len(body) < 2 << 20
        (tmp_path / f"{k}.{payload}").write_bytes(body)
    code = """
import resource, sys
from pathlib import Path
import h5py, imagecodecs, tifffile
sys.path.insert(0, sys.argv[2])
from test_payload import FetchError, decode, described
for path in sorted(Path(sys.argv[1]).iterdir()):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        decode(path.read_bytes(), described(path.suffix[1:]), (4, 4, 4))
    except FetchError as error:
        print(path.name, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    command = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    grown_kb = dict(line.split() for line in said.splitlines())
    assert len(grown_kb) == len(bombs), said
    assert max(map(int, grown_kb.values())) < 40 << 10, said


@pytest.mark.slow
def test_a_missing_library_is_named_with_its_cure() -> None:
    code = """
import sys
for name in ("h5py", "imagecodecs", "tifffile"):
    sys.modules[name] = None
import numpy as np
from bellis.errors import ArrayError
from bellis.volumes.descriptions import CutoutDescription
from bellis.volumes.payload import decode
bodies = {"hdf5": b"\\x89HDF\\r\\n\\x1a\\n", "png": None, "jpeg": None, "tiff": b"II*\\0", "blosc": b"\\2" * 16}
for payload, body in bodies.items():
    if body is None:
        continue
    described = CutoutDescription(url_format="", payload=payload, axes=("x",), payload_axes=("x",),
        dtype=np.dtype("u1"), payload_dtype=np.dtype("u1"), shape=(1,), origin_offset=(0,), hdf5_dataset="a")
    try:
        decode(body, described, (1,))
    except ArrayError as error:
        print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert [line.partition("pip install ")[2] for line in said.splitlines()] == [
        "'bellis[hdf5]'", "'bellis[tiff]'", "'bellis[tiff]'",
    ]  # fmt: skip


def test_nothing_heavy_is_imported_until_it_is_needed() -> None:
    heavy = "[m for m in ('h5py', 'imagecodecs', 'tifffile') if m in sys.modules]"
    code = f"import sys, bellis.volumes.payload; print({heavy})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_colour_image_is_refused() -> None:
    colour = np.zeros((4, 4, 3), "u1")
    for payload, body in (("png", imagecodecs.png_encode(colour)), ("jpeg", imagecodecs.jpeg8_encode(colour))):
        with pytest.raises(FetchError, match="asked for a grey"):
            decode(body, described(payload, axes="yx"), (4, 4))  # type: ignore[arg-type]


def test_a_big_endian_description_says_how_raw_bytes_are_read() -> None:
    voxels = voxels_of((2, 3, 4), "u2")
    body = voxels.astype(">u2").tobytes()
    np.testing.assert_array_equal(decode(body, described("raw", "u2", order=">"), voxels.shape).voxels, voxels)
    swapped = decode(body, replace(described("raw", "u2"), payload_dtype=np.dtype("<u2")), voxels.shape).voxels
    np.testing.assert_array_equal(swapped, voxels.byteswap())


assert set(IMAGES) < set(PAYLOADS)
assert issubclass(TransientError, ArrayError)


def test_a_gzip_file_that_is_as_long_as_the_voxels_is_unfolded() -> None:
    for size in range(40, 120):
        voxels = np.zeros((1, 1, size), "u1")
        voxels[0, 0, : size // 2] = np.random.default_rng(size).integers(0, 255, size // 2)
        body = gzip.compress(voxels.tobytes(), mtime=0)
        if len(body) == size:
            found = decode(body, described("raw"), voxels.shape)
            np.testing.assert_array_equal(found.voxels, voxels)
            return
    pytest.fail("no such file was found")
