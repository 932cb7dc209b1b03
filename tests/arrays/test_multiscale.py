"""Images of several resolutions: made, extended, found, and read by others."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bellis.arrays import open_ds, prepare_ds
from bellis.arrays.multiscale import Multiscale
from bellis.errors import ArrayError
from bellis.geometry import Roi

if TYPE_CHECKING:
    from pathlib import Path


def _image(path: Path, **options: Any) -> Multiscale:
    image = Multiscale.prepare(path, Roi((40, 0, 0), (400, 128, 124)), (40, 4, 4), "uint8", **options)
    image.add_levels([(1, 2, 2), (2, 2, 2)])
    return image


def test_an_image_is_opened_as_it_was_made(tmp_path: Path) -> None:
    made = _image(tmp_path / "em.zarr")
    found = Multiscale.open(tmp_path / "em.zarr")
    assert found.level_names == made.level_names == ("s0", "s1", "s2")
    assert [tuple(level.voxel_size) for level in found] == [(40, 4, 4), (40, 8, 8), (80, 16, 16)]
    assert [level.shape for level in found] == [(10, 32, 31), (10, 16, 16), (5, 8, 8)]
    assert [level.layout for level in found] == [level.layout for level in made]
    assert {tuple(level.roi.begin) for level in found} == {(40, 0, 0)}
    assert len(found) == 3
    assert found[-1].path == f"{tmp_path}/em.zarr/s2"
    assert found.path == f"{tmp_path}/em.zarr"
    assert found.name == "em"
    assert made[0].is_writeable
    assert not found[0].is_writeable
    assert Multiscale.open(tmp_path / "em.zarr", mode="r+")[1].is_writeable
    assert pickle.loads(pickle.dumps(found))[2].roi == found[2].roi
    assert repr(found).splitlines()[0] == f"Multiscale('{tmp_path}/em.zarr', 3 levels)"
    assert repr(found).splitlines()[2].startswith("  s1: Array(z=10, y=16, x=16, uint8")


def test_an_image_is_opened_as_an_array_by_its_finest_level(tmp_path: Path) -> None:
    image = _image(tmp_path / "em.zarr")
    assert open_ds(tmp_path / "em.zarr").layout == image[0].layout
    assert open_ds(tmp_path / "em.zarr", "s1").layout == image[1].layout


@pytest.mark.parametrize("name", ["em.zarr", "plain", "vol.zarr/em/small"])
def test_voxels_are_written_through_the_levels(name: str, tmp_path: Path) -> None:
    image = _image(tmp_path / name)
    image[1][Roi((40, 8, 8), (40, 8, 8))] = 7
    assert Multiscale.open(tmp_path / name)[1].to_ndarray().sum() == 7
    assert open_ds(tmp_path / name / "s1").to_ndarray()[0, 1, 1] == 7


def test_making_an_image_again_keeps_it(tmp_path: Path) -> None:
    _image(tmp_path / "em.zarr")[2][Roi((40, 0, 0), (80, 16, 16))] = 7
    metadata = (tmp_path / "em.zarr/zarr.json").read_text()
    again = _image(tmp_path / "em.zarr")
    assert again.level_names == ("s0", "s1", "s2")
    assert again[2].to_ndarray().sum() == 7
    assert (tmp_path / "em.zarr/zarr.json").read_text() == metadata


def test_another_image_is_refused_with_each_difference_or_replaces(tmp_path: Path) -> None:
    _image(tmp_path / "em.zarr")[0][Roi((40, 0, 0), (40, 4, 4))] = 7
    prepare_ds(tmp_path / "em.zarr/mask", shape=(4, 4), dtype="u1")
    with pytest.raises(ArrayError, match="voxel_size: asked"):
        Multiscale.prepare(tmp_path / "em.zarr", Roi((40, 0, 0), (400, 128, 124)), (40, 4, 2), "uint8")
    image = Multiscale.prepare(tmp_path / "em.zarr", shape=(8, 8), dtype="uint8", mode="w")
    assert image.level_names == ("s0",)
    assert image[0].to_ndarray().sum() == 0
    assert not (tmp_path / "em.zarr/s1").exists()
    assert (tmp_path / "em.zarr/mask").exists()


def test_another_level_is_refused_or_replaced(tmp_path: Path) -> None:
    image = _image(tmp_path / "em.zarr")
    with pytest.raises(ArrayError, match=r"voxel_size: asked \(80, 8, 8\), found \(40, 8, 8\)"):
        image.add_level((2, 2, 2), below=0)
    level = image.add_level((2, 2, 2), below=0, overwrite=True)
    assert level.voxel_size == (80, 8, 8)
    assert Multiscale.open(tmp_path / "em.zarr")[1].voxel_size == (80, 8, 8)
    assert image.add_level(2).voxel_size == (160, 32, 32)
    assert image.level_names[-1] == "s3"


@pytest.mark.parametrize("factors", [(1, 1, 1), (0, 2, 2), (2, 2), (-1, 2, 2), 1])
def test_factors_that_do_not_fit_are_refused(factors: Any, tmp_path: Path) -> None:
    image = Multiscale.prepare(tmp_path / "em.zarr", shape=(8, 8, 8), dtype="u1")
    with pytest.raises(ArrayError, match=r"for each of 3 \(z, y, x\) axes"):
        image.add_level(factors)
    assert Multiscale.open(tmp_path / "em.zarr").level_names == ("s0",)


def test_levels_have_the_chunks_of_the_one_above(tmp_path: Path) -> None:
    image = Multiscale.prepare(tmp_path / "em.zarr", shape=(3, 64, 64), voxel_size=(4, 4), dtype="u2", fill_value=9,
                               chunk_shape=(1, 32, 32))  # fmt: skip
    assert image.add_level(2).chunk_shape == (1, 32, 32)
    assert image.add_level(2).chunk_shape == (1, 16, 16)
    assert image.add_level(2, chunk_shape=(3, 4, 4)).chunk_shape == (3, 4, 4)
    assert image[3].shape == (3, 8, 8)
    assert image[3].to_ndarray().max() == 9
    sharded = Multiscale.prepare(tmp_path / "sharded.zarr", shape=(64, 64), dtype="u1", chunk_shape=(8, 8),
                                 shard_shape=(32, 32))  # fmt: skip
    level = sharded.add_level(2)
    assert (level.chunk_shape, level.write_shape) == ((8, 8), (32, 32))


def test_a_fractional_voxel_size_is_in_one_unit_on_all_levels(tmp_path: Path) -> None:
    image = Multiscale.prepare(tmp_path / "em.zarr", shape=(8, 64, 64), voxel_size=(50, 4.6, 4.6), dtype="u1")
    image.add_levels([(1, 10, 10), (2, 1, 1)])
    found = Multiscale.open(tmp_path / "em.zarr")
    assert [tuple(level.voxel_size) for level in found] == [
        (50_000, 4600, 4600), (50_000, 46_000, 46_000), (100_000, 46_000, 46_000),
    ]  # fmt: skip
    assert {level.units for level in found} == {("pm",) * 3}


def test_what_ome_zarr_can_not_tell_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ArrayError, match=r"can't be an OME-Zarr image: it has 1 axes.*prepare_ds makes any array"):
        Multiscale.prepare(tmp_path / "em.zarr", shape=(8,), dtype="u1")
    with pytest.raises(ArrayError, match="time first, then channels, then space"):
        Multiscale.prepare(tmp_path / "em.zarr", shape=(8, 8, 3), axis_names="yxc", dtype="u1")
    for path in ("em.n5", "em.h5", "n5://em"):
        with pytest.raises(ArrayError, match="is not zarr: images are written as OME-Zarr only"):
            Multiscale.prepare(tmp_path / path if "//" not in path else path, shape=(8, 8), dtype="u1")
    assert not list(tmp_path.iterdir())


def test_a_group_of_zarr_2_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "old.zarr").mkdir()
    (tmp_path / "old.zarr/.zgroup").write_text('{"zarr_format": 2}')
    with pytest.raises(ArrayError, match="is a group of zarr 2"):
        Multiscale.prepare(tmp_path / "old.zarr", shape=(8, 8), dtype="u1")


def test_what_is_no_image_is_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.zarr/volumes/raw", shape=(8,), dtype="u1")
    with pytest.raises(ArrayError, match=r"there is no multi-scale image: .*a.zarr is a group.*volumes/raw"):
        Multiscale.open(tmp_path / "a.zarr")
    with pytest.raises(ArrayError, match="there is no multi-scale image"):
        Multiscale.open(tmp_path / "b.zarr")
    with pytest.raises(ArrayError, match=r"Multiscale\.prepare makes new images"):
        Multiscale.open(tmp_path / "a.zarr", mode="w")


def test_one_of_several_images_is_named(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.zarr/raw", shape=(8, 8), dtype="u1")
    prepare_ds(tmp_path / "a.zarr/mask", shape=(8, 8), dtype="?")
    with pytest.raises(ArrayError, match=r"has the images 'raw', 'mask', of which none was named: pass image="):
        Multiscale.open(tmp_path / "a.zarr")
    assert Multiscale.open(tmp_path / "a.zarr", image="mask")[0].dtype == bool
    with pytest.raises(ArrayError, match="'row' was asked for"):
        Multiscale.open(tmp_path / "a.zarr", image="row")


def test_an_array_beside_an_image_is_not_the_image(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "em.zarr/mask", shape=(8, 8), dtype="u1")
    image = _image(tmp_path / "em.zarr")
    assert Multiscale.open(tmp_path / "em.zarr").level_names == image.level_names
    assert Multiscale.open(tmp_path / "em.zarr", image="mask").level_names == ("mask",)


def test_an_image_of_others_is_extended_but_not_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "em.zarr"
    for k in range(2):
        prepare_ds(path / str(k), shape=(8 >> k, 8 >> k), voxel_size=(1 << k, 1 << k), dtype="u1")
    group = json.loads((path / "zarr.json").read_text())
    first, second = group["attributes"]["ome"]["multiscales"]
    first |= {"name": "/", "datasets": first["datasets"] + second["datasets"]}
    group["attributes"]["ome"]["multiscales"] = [first]
    (path / "zarr.json").write_text(json.dumps(group))
    for mode in ("a", "w"):
        with pytest.raises(ArrayError, match=r"holds the image '/' with the levels 0, 1, which another program made"):
            Multiscale.prepare(path, shape=(8, 8), dtype="u1", mode=mode)  # type: ignore[arg-type]
    with pytest.raises(ArrayError, match=r"is open to read: Multiscale.open\(..., mode='r\+'\)"):
        Multiscale.open(path).add_level(2)
    image = Multiscale.open(path, mode="r+")
    assert image.add_level(2).voxel_size == (4, 4)
    assert Multiscale.open(path).level_names == ("0", "1", "2")


def test_a_level_that_is_missing_is_an_error(tmp_path: Path) -> None:
    image = _image(tmp_path / "em.zarr")
    (tmp_path / "em.zarr/s1/zarr.json").unlink()
    with pytest.raises(ArrayError, match=r"there is no array .*/s1, although the metadata of its group names it"):
        Multiscale.open(image.path)


def _add_level(path: str, factors: tuple[int, int], below: int) -> None:
    image = Multiscale.prepare(path, shape=(64, 64), voxel_size=(4, 4), dtype="u1")
    image.add_level(factors, below=below)


@pytest.mark.integration
def test_processes_that_make_the_same_image_all_succeed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    workers = [context.Process(target=_add_level, args=(f"{tmp_path}/em.zarr", (2, 2), 0)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert Multiscale.open(tmp_path / "em.zarr").level_names == ("s0", "s1")


def test_the_validator_of_ome_zarr_is_content(tmp_path: Path) -> None:
    models = pytest.importorskip("ome_zarr_models.v05.image")
    zarr = pytest.importorskip("zarr")
    Multiscale.prepare(tmp_path / "em.zarr", shape=(2, 3, 8, 8, 8), dtype="u1", axis_names="tczyx").add_levels(
        [(1, 1, 2, 2), (1, 2, 2, 2)]
    )
    model = models.Image.from_zarr(zarr.open_group(tmp_path / "em.zarr", mode="r"))
    (image,) = model.ome_attributes.multiscales
    assert [dataset.path for dataset in image.datasets] == ["s0", "s1", "s2"]
    assert [(axis.name, axis.type, axis.unit) for axis in image.axes][:3] == [
        ("t", "time", "second"), ("c", "channel", None), ("z", "space", "nanometer"),
    ]  # fmt: skip


def test_ome_zarr_reads_the_levels(tmp_path: Path) -> None:
    image = _image(tmp_path / "em.zarr")
    image[1][Roi((40, 8, 8), (40, 8, 8))] = 7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        io, reader = pytest.importorskip("ome_zarr.io"), pytest.importorskip("ome_zarr.reader")
        (node,) = list(reader.Reader(io.parse_url(str(tmp_path / "em.zarr")))())
        assert [data.shape for data in node.data] == [level.shape for level in image]
        assert int(node.data[1].sum().compute(scheduler="sync")) == 7
        steps = node.metadata["coordinateTransformations"][1]
    assert steps[0]["scale"] == [40, 8, 8]
    assert steps[1]["translation"] == [40, 2, 2]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_what_ome_zarr_writes_is_read(version: str, tmp_path: Path) -> None:
    voxels = np.arange(2 * 8 * 16 * 16, dtype=np.uint16).reshape(2, 8, 16, 16)
    scales = [[1, 2, 0.65, 0.65], [1, 2, 1.3, 1.3]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer, formats = pytest.importorskip("ome_zarr.writer"), pytest.importorskip("ome_zarr.format")
        zarr = pytest.importorskip("zarr")
        group = zarr.open_group(tmp_path / "em.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
        axes = [{"name": "c", "type": "channel"}]
        axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
        writer.write_multiscale(
            [voxels, voxels[:, :, ::2, ::2]],
            group,
            fmt=formats.format_from_version(version),
            axes=axes,
            coordinate_transformations=[[{"type": "scale", "scale": scale}] for scale in scales],
        )
    image = Multiscale.open(tmp_path / "em.zarr")
    assert [tuple(level.voxel_size) for level in image] == [(2000, 650, 650), (2000, 1300, 1300)]
    assert {level.units for level in image} == {("nm",) * 3}
    assert image[0].types[0] == "channel"
    assert image[0].roi == image[1].roi
    np.testing.assert_array_equal(image[1].to_ndarray(), voxels[:, :, ::2, ::2])
    np.testing.assert_array_equal(open_ds(tmp_path / "em.zarr").to_ndarray(), voxels)
    assert open_ds(tmp_path / "em.zarr", image.level_names[1]).roi == image[1].roi


def test_levels_of_n5_are_an_image(tmp_path: Path) -> None:
    pytest.importorskip("bellis.arrays.n5")
    for k in range(2):
        prepare_ds(tmp_path / f"em.n5/s{k}", shape=(8 >> k, 8 >> k), voxel_size=(4 << k, 4 << k), dtype="u1")
    image = Multiscale.open(tmp_path / "em.n5")
    assert image.level_names == ("s0", "s1")
    assert image[1].voxel_size == (8, 8)


def test_levels_without_a_group_share_a_unit_too(tmp_path: Path) -> None:
    for k, size in enumerate((4.6, 46)):
        prepare_ds(tmp_path / f"em.n5/s{k}", shape=(10, 10), voxel_size=(size, size), dtype="u1")
    image = Multiscale.open(tmp_path / "em.n5")
    assert [(tuple(level.voxel_size), level.units) for level in image] == [
        ((4600, 4600), ("pm", "pm")), ((46_000, 46_000), ("pm", "pm")),
    ]  # fmt: skip


def test_scales_of_precomputed_are_an_image(tmp_path: Path) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    for k in range(2):
        scale = {
            "size": [64 >> k, 32 >> k, 16],
            "resolution": [4 << k, 4 << k, 40],
            "voxel_offset": [8 >> k, 0, 2],
            "chunk_size": [8, 8, 8],
            "encoding": "raw",
        }
        tensorstore.open(
            {
                "driver": "neuroglancer_precomputed",
                "kvstore": {"driver": "file", "path": f"{tmp_path}/em/"},
                "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1},
                "scale_metadata": scale,
                "create": True,
                "open": True,
            }
        ).result()
    image = Multiscale.open(tmp_path / "em")
    assert [tuple(level.voxel_size) for level in image] == [(40, 4, 4), (40, 8, 8)]
    assert image[0].roi == image[1].roi == Roi((80, 0, 32), (640, 128, 256))


def test_a_cosem_group_of_n5_is_an_image(tmp_path: Path) -> None:
    pytest.importorskip("bellis.arrays.n5")
    datasets = []
    for k in range(2):
        size, shift = 4 << k, 2 * ((1 << k) - 1)
        transform = {"axes": ["z", "y", "x"], "scale": [size] * 3, "translate": [shift] * 3, "units": ["nm"] * 3}
        prepare_ds(tmp_path / f"em.n5/s{k}", shape=(8 >> k,) * 3, dtype="u1")
        path = tmp_path / f"em.n5/s{k}/attributes.json"
        found = json.loads(path.read_text())
        kept = ("dimensions", "blockSize", "dataType", "compression")
        path.write_text(json.dumps({**{key: found[key] for key in kept}, "transform": transform}))
        datasets.append({"path": f"s{k}", "transform": transform})
    (tmp_path / "em.n5/attributes.json").write_text(
        json.dumps({"n5": "2.0.0", "multiscales": [{"datasets": datasets}]})
    )
    image = Multiscale.open(tmp_path / "em.n5")
    assert [tuple(level.voxel_size) for level in image] == [(4, 4, 4), (8, 8, 8)]
    assert image[0].roi == image[1].roi


def test_an_array_that_is_no_image_is_said_to_be_one(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.zarr", (4, 4), dtype="uint8")
    with pytest.raises(ArrayError, match="but a single array: make an image of it"):
        Multiscale.open(tmp_path / "a.zarr")
