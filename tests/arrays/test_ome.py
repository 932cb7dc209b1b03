"""Images in the attributes of groups: OME-Zarr and COSEM."""

from __future__ import annotations

import copy
import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.arrays.layout import Layout
from bellis.arrays.ome import images, ome_refusal, with_dataset, without_dataset
from bellis.errors import ArrayError
from bellis.geometry import Coordinate, Roi

TYPES = (
    ("space", "space"),
    ("space", "space", "space"),
    ("channel", "space", "space", "space"),
    ("time", "space", "space"),
    ("time", "channel", "space", "space", "space"),
)


@st.composite
def pyramids(draw: st.DrawFn) -> list[Layout]:
    """Layouts of 1 to 4 levels that cover the same region, finest first."""
    types = draw(st.sampled_from(TYPES))
    dims = len(types) - types.count("channel")
    first = Layout.of(
        [draw(st.integers(1, 50)) for _ in types],
        "u1",
        voxel_size=[draw(st.fractions(min_value=1, max_value=99, max_denominator=12)) for _ in range(dims)],
        offset=[draw(st.fractions(min_value=-99, max_value=99, max_denominator=12)) for _ in range(dims)],
        units=draw(st.sampled_from(["nm", "um", "angstrom", "voxel", "nm/3"])),
        types=types,
    )
    levels = [first]
    for _ in range(draw(st.integers(0, 3))):
        by = Coordinate([draw(st.integers(1, 3)) for _ in range(dims - 1)] + [draw(st.integers(2, 3))])
        above = levels[-1]
        shape = above.woven(above.spatial_shape.ceil_division(by), above.shape)
        size = above.voxel_size * by
        levels.append(
            Layout(
                shape=shape, dtype=above.dtype, voxel_size=size, offset=above.offset, axis_names=above.axis_names,
                units=above.units, types=above.types,
            )
        )  # fmt: skip
    return levels


def _written(levels: list[Layout], attributes: dict[str, Any] | None = None) -> dict[str, Any]:
    attributes = {} if attributes is None else attributes
    for k, level in enumerate(levels):
        attributes = with_dataset(attributes, image="em", path=f"s{k}", layout=level)
    return json.loads(json.dumps(attributes))


@given(pyramids())
def test_levels_are_read_where_they_were_written(levels: list[Layout]) -> None:
    (image,) = images(_written(levels))
    assert [dataset.path for dataset in image.datasets] == [f"s{k}" for k in range(len(levels))]
    for k, level in enumerate(levels):
        found = image.layout(f"s{k}", level.shape, level.dtype)
        assert found.scales() == level.scales()
        assert found.types == level.types
        corner = [n * size for n, (_, size) in zip(level.offset, level.scales(), strict=True)]
        at = [n * size for n, (_, size) in zip(found.offset, found.scales(), strict=True)]
        assert [c / level.voxel_size[i] for i, c in enumerate(corner)] == [
            c / found.voxel_size[i] for i, c in enumerate(at)
        ]
    assert len({image.layout(f"s{k}", level.shape, level.dtype).units for k, level in enumerate(levels)}) == 1


@given(pyramids(), st.randoms())
def test_the_order_in_which_levels_are_added_does_not_matter(levels: list[Layout], random: Any) -> None:
    order = list(range(len(levels)))
    random.shuffle(order)
    attributes: dict[str, Any] = {}
    for k in [*order, *order]:
        attributes = with_dataset(attributes, image="em", path=f"s{k}", layout=levels[k])
    assert images(attributes) == images(_written(levels))


@given(pyramids())
def test_adding_a_level_again_changes_nothing(levels: list[Layout]) -> None:
    attributes = _written(levels)
    before = copy.deepcopy(attributes)
    assert _written(levels, attributes) == before
    assert attributes == before


@given(pyramids())
def test_removing_all_levels_leaves_what_was_there(levels: list[Layout]) -> None:
    attributes = _written(levels, {"author": "x", "ome": {"version": "0.5", "omero": {"id": 1}}})
    for k in range(len(levels)):
        attributes = without_dataset(attributes, f"s{k}")
    assert attributes == {"author": "x", "ome": {"version": "0.5", "omero": {"id": 1}}}
    assert without_dataset(with_dataset({}, image="a", path="a", layout=levels[0]), "a") == {}
    assert without_dataset({"voxel_size": 1}, "a") == {"voxel_size": 1}


@given(pyramids())
def test_what_is_written_is_valid_ome_zarr(levels: list[Layout]) -> None:
    attrs = pytest.importorskip("ome_zarr_models.v05.image").ImageAttrs
    model = attrs.model_validate(_written(levels)["ome"])
    assert [dataset.path for dataset in model.multiscales[0].datasets] == [f"s{k}" for k in range(len(levels))]


def test_a_translation_is_that_of_a_centre_but_for_the_finest_level() -> None:
    fine = Layout.of((8, 8), "u1", voxel_size=(4, 4), offset=(100, 0))
    coarse = Layout.of((4, 8), "u1", voxel_size=(8, 4), offset=(100, 0))
    entry = _written([fine, coarse])["ome"]["multiscales"][0]
    assert entry["axes"] == [{"name": n, "type": "space", "unit": "nanometer"} for n in "yx"]
    assert [dataset["coordinateTransformations"] for dataset in entry["datasets"]] == [
        [{"type": "scale", "scale": [4.0, 4.0]}, {"type": "translation", "translation": [100.0, 0.0]}],
        [{"type": "scale", "scale": [8.0, 4.0]}, {"type": "translation", "translation": [102.0, 0.0]}],
    ]


def test_levels_that_say_the_same_translation_share_a_corner() -> None:
    for steps in ([], [{"type": "translation", "translation": [7, 7]}]):
        datasets = [
            {"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": [2**k, 2**k]}, *steps]}
            for k in range(3)
        ]
        (image,) = images({"multiscales": [{"version": "0.4", "axes": _axes("yx"), "datasets": datasets}]})
        assert {dataset.corner for dataset in image.datasets} == {(7, 7) if steps else (0, 0)}


def test_rounded_centres_still_share_a_corner() -> None:
    datasets = [
        _dataset("0", [0.65, 0.65], [0, 0]),
        _dataset("1", [1.3, 1.3], [0.325, 0.32500000000000007]),
        _dataset("2", [2.6, 2.6], [0.975, 0.9750001]),
    ]
    (image,) = images({"multiscales": [{"version": "0.4", "axes": _axes("yx", "micrometer"), "datasets": datasets}]})
    assert {dataset.corner for dataset in image.datasets} == {(0, 0)}
    layout = image.layout("2", (5, 5), "u2")
    assert layout.voxel_size == (2600, 2600)
    assert layout.units == ("nm", "nm")


def test_transformations_of_the_image_come_after_those_of_a_level() -> None:
    entry = {
        "axes": [{"name": "t", "type": "time", "unit": "second"}, *_axes("yx", "micrometer")],
        "datasets": [_dataset("0", [1, 2, 2], [0, 1, 1])],
        "coordinateTransformations": [
            {"type": "scale", "scale": [0.5, 10, 10]}, {"type": "translation", "translation": [3, 0, 5]},
            {"type": "identity"},
        ],
    }  # fmt: skip
    (image,) = images({"ome": {"version": "0.5", "multiscales": [entry]}})
    assert image.datasets[0].scale == (Fraction(1, 2), 20, 20)
    assert image.datasets[0].corner == (3, 10, 15)
    layout = image.layout("0", (2, 3, 4), "u1")
    assert layout.units == ("ms", "um", "um")
    assert layout.roi == Roi((3000, 10, 15), (1000, 60, 80))


def test_axes_without_a_type_are_known_by_name_and_custom_ones_are_channels() -> None:
    axes = [{"name": "t"}, {"name": "c"}, {"name": "lambda", "type": "wavelength"}, {"name": "y"}, {"name": "x"}]
    (image,) = images({"multiscales": [{"axes": axes, "datasets": [_dataset("0", [1] * 5, [0] * 5)]}]})
    assert [axis.type for axis in image.axes] == ["time", "channel", "channel", "space", "space"]
    assert image.layout("0", (1, 2, 3, 4, 5), "u1").types == ("time", "channel", "channel", "space", "space")


def test_all_levels_are_in_the_unit_that_the_finest_needs() -> None:
    datasets = [_dataset("0", [4.6, 4.6], [0, 0]), _dataset("1", [46, 46], [0, 0])]
    (image,) = images({"multiscales": [{"axes": _axes("yx", "nanometer"), "datasets": datasets}]})
    assert image.layout("1", (5, 5), "u1").voxel_size == (46_000, 46_000)


def test_a_cosem_group_is_an_image() -> None:
    datasets = [
        {"path": f"s{k}", "transform": {
            "axes": ["z", "y", "x"], "scale": [5.24 * 2**k, 4 * 2**k, 4 * 2**k], "units": ["nm"] * 3,
            "translate": [5.24 * (2**k - 1) / 2, 4 * (2**k - 1) / 2, 4 * (2**k - 1) / 2],
        }}
        for k in range(3)
    ]  # fmt: skip
    (image,) = images({"multiscales": [{"name": "em", "datasets": datasets}]})
    assert image.name == "em"
    assert {dataset.corner for dataset in image.datasets} == {(0, 0, 0)}
    assert image.layout("s2", (5, 5, 5), "u1").voxel_size == (20_960, 16_000, 16_000)
    for dataset in datasets:
        for key, value in dataset["transform"].items():  # type: ignore[attr-defined]
            dataset["transform"][key] = value[::-1]  # type: ignore[index]
    assert images({"multiscales": [{"name": "em", "datasets": datasets}]}) == (image,)


def test_what_else_is_in_the_attributes_is_kept() -> None:
    layout = Layout.of((8, 8), "u1")
    entry = {"name": "em", "axes": _axes("yx"), "datasets": [_dataset("s0", [1, 1], [0, 0])], "type": "mean"}
    attributes = {"author": "x", "ome": {"version": "0.5", "omero": {"channels": []}, "multiscales": [entry]}}
    found = with_dataset(attributes, image="other", path="raw", layout=layout)
    assert found["author"] == "x"
    assert found["ome"]["omero"] == {"channels": []}
    assert found["ome"]["multiscales"][0] == entry
    assert [image.name for image in images(found)] == ["em", "other"]
    coarse = Layout.of((4, 4), "u1", voxel_size=(2, 2))
    found = with_dataset(attributes, image="em", path="s1", layout=coarse)
    assert found["ome"]["multiscales"][0]["type"] == "mean"


def test_an_array_that_was_noted_for_itself_can_become_a_level() -> None:
    fine, coarse = Layout.of((8, 8), "u1"), Layout.of((4, 4), "u1", voxel_size=(2, 2))
    attributes = with_dataset({}, image="s0", path="s0", layout=fine)
    attributes = with_dataset(attributes, image="em", path="s0", layout=fine)
    attributes = with_dataset(attributes, image="em", path="s1", layout=coarse)
    (image,) = images(attributes)
    assert (image.name, len(image.datasets)) == ("em", 2)
    assert with_dataset(attributes, image="s1", path="s1", layout=coarse) == attributes


def test_levels_of_other_axes_are_refused() -> None:
    attributes = with_dataset({}, image="em", path="s0", layout=Layout.of((8, 8), "u1"))
    with pytest.raises(ArrayError, match="array 's1' has axes z, y, x, but image 'em' has y, x"):
        with_dataset(attributes, image="em", path="s1", layout=Layout.of((4, 4, 4), "u1", voxel_size=(2, 2, 2)))
    again = with_dataset(attributes, image="em", path="s0", layout=Layout.of((4, 4, 4), "u1"))
    assert [axis.name for axis in images(again)[0].axes] == ["z", "y", "x"]


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((8,), {}, "it has 1 axes, 1 of them in space"),
        ((8,) * 6, {"types": ("channel",) * 3 + ("space",) * 3}, "it has 6 axes"),
        ((8,) * 3, {"types": ("channel", "channel", "space")}, "1 of them in space"),
        ((8,) * 3, {"axis_names": "yxc"}, "time first, then channels, then space"),
        ((8,) * 4, {"axis_names": "ctyx"}, "time first"),
        ((8,) * 4, {"types": ("channel", "channel", "space", "space")}, "one of channels at most"),
        ((8, 8), {"axis_names": "xx"}, "not all different"),
    ],
)
def test_what_ome_zarr_can_not_tell_is_said(shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    layout = Layout.of(shape, "u1", **options)
    assert message in (ome_refusal(layout) or "")
    with pytest.raises(ArrayError, match=message):
        with_dataset({}, image="em", path="s0", layout=layout)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"multiscales": {}}, "no list of objects"),
        ({"ome": 5}, "no list of objects"),
        ({"multiscales": [{"datasets": []}]}, r"multiscales\[0\]: datasets is empty"),
        ({"multiscales": [{"axes": []}]}, r"multiscales\[0\] lacks, .*KeyError\('datasets'\)"),
        ({"multiscales": [{"axes": ["y"], "datasets": [{"path": "0"}]}]}, r"multiscales\[0\] lacks"),
        (
            {"multiscales": [{"axes": [{"name": "y"}], "datasets": [
                {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 2]}]}]}]},
            r"scale \(1, 2\) of datasets\[0\] is not one number for each of 1 axes, above 0",
        ),
        (
            {"multiscales": [{"axes": [{"name": "y"}], "datasets": [
                {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0]}]}]}]},
            "above 0",
        ),
        (
            {"multiscales": [{"axes": [{"name": "y"}], "datasets": [
                {"path": "0", "coordinateTransformations": [{"type": "affine", "affine": [1]}]}]}]},
            "only scale and translation are read",
        ),
    ],
)  # fmt: skip
def test_a_wrong_description_is_refused_with_its_place(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArrayError, match=message):
        images(attributes)


def test_older_descriptions_are_left_out() -> None:
    assert images({"multiscales": [{"version": "0.3", "axes": ["y", "x"], "datasets": [{"path": "0"}]}]}) == ()
    assert images({}) == ()
    assert images({"voxel_size": [1, 2]}) == ()


def test_a_level_that_is_not_there_is_an_error() -> None:
    (image,) = images(with_dataset({}, image="em", path="s0", layout=Layout.of((8, 8), "u1")))
    with pytest.raises(ArrayError, match="image 'em' has no level 's1', only s0"):
        image.layout("s1", (8, 8), "u1")
    with pytest.raises(ArrayError, match=r"'s0' has shape \(8,\), but its image has 2 axes \(y, x\)"):
        image.layout("s0", (8,), "u1")


def _axes(names: str, unit: str | None = None) -> list[dict[str, str]]:
    return [{"name": name, "type": "space", **({"unit": unit} if unit else {})} for name in names]


def _dataset(path: str, scale: list[float], translation: list[float]) -> dict[str, Any]:
    steps = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": translation}]
    return {"path": path, "coordinateTransformations": steps}
