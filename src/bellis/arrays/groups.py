"""What the groups around an array say of it: OME-Zarr images, and the names of what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bellis.arrays.keyvalue import read_attributes, read_json, update_attributes
from bellis.arrays.ome import images, ome_refusal, with_dataset, without_dataset
from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from bellis.arrays.layout import Layout
    from bellis.arrays.location import Location
    from bellis.arrays.ome import Image


def images_of(group: Location) -> tuple[Image, ...]:
    """Return the images that the attributes of a zarr or N5 group describe; empty if there are none.

    Raises
    ------
    ArrayError
        If the description is wrong; the message says where.
    """
    attributes = read_attributes(group)
    try:
        return images(attributes)
    except ArrayError as error:
        raise ArrayError(f"{group} has attributes that are not understood: {error}") from error


def image_layout(location: Location, shape: Sequence[int], dtype: npt.DTypeLike) -> Layout | None:
    """Return the layout of an array that is a level of an image, as a group above it says; None if none does.

    Groups are asked from the nearest up to the container.

    Raises
    ------
    ArrayError
        If the metadata of a group can't be understood.
    """
    for group, path in _groups(location):
        for image in images_of(group):
            if any(dataset.path == path for dataset in image.datasets):
                return image.layout(path, shape, dtype)
    return None


def finest_level(group: Location, names: Sequence[str]) -> Location | None:
    """Return where the finest level of the one image in a group is; None if there is no image, or more than one.

    An array that `prepare_ds` recorded, under its own name, is meant only if it is alone among the arrays, ``names``.
    """
    found = images_of(group)
    if len(found) != 1:
        return None
    first = found[0].datasets[0].path
    return None if _is_recorded(found[0]) and set(names) - {first} else group / first


def record(location: Location, layout: Layout) -> None:
    """Note an array in the OME-Zarr metadata of the zarr 3 group that it is directly in, if there is one.

    Of an array that OME-Zarr can't tell (of one axis, say), nothing is noted, and what was noted before is removed.
    A group that is an image of several levels gets no other image beside it.
    """
    group, name = location.parent, location.name.rpartition("/")[2]
    if group is None or (read_json(group, "zarr.json") or {}).get("node_type") != "group":
        return
    found = images_of(group)
    image = next((image for image in found if any(dataset.path == name for dataset in image.datasets)), None)
    if ome_refusal(layout) is not None:
        if image is not None:
            update_attributes(group, lambda attributes: without_dataset(attributes, name))
    elif image is not None:
        said = image.name
        update_attributes(group, lambda attributes: with_dataset(attributes, image=said, path=name, layout=layout))
    elif all(_is_recorded(image) for image in found):
        update_attributes(group, lambda attributes: with_dataset(attributes, image=name, path=name, layout=layout))


def _is_recorded(image: Image) -> bool:
    """Return whether an image is one array under its own name, as `record` notes it."""
    return len(image.datasets) == 1 and image.name == image.datasets[0].path


def _groups(location: Location) -> Iterator[tuple[Location, str]]:
    """Yield the groups above an array, nearest first, with its path from there."""
    group, path = location.parent, location.name.rpartition("/")[2]
    while group is not None:
        yield group, path
        path = f"{group.name.rpartition('/')[2]}/{path}"
        group = group.parent
