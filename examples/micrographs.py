"""Stacks of electron micrographs, for the examples on them."""

from __future__ import annotations

from pathlib import Path

from bellis import Array, ArrayError, open_ds

VOXEL_NM = (50, 4.6, 4.6)  # of files that do not say
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"  # beside the checkout


def known_stack(simulated: Path, data: Path = DATA) -> Path:
    """Return the path of the stack beside the checkout; if there is none, of a simulated one, which is made once."""
    from bellis.testing.specimen import write_stack

    if (data / "vnc_stack1_raw.tif").exists():
        return data / "vnc_stack1_raw.tif"
    if not simulated.exists():
        write_stack(simulated)
    return simulated


def open_stack(path: str | Path) -> Array:
    """Open a volume of any format, in world units in which its voxel size is whole: 4.6 nm are 4600 pm."""
    stack = open_ds(path)
    if stack.types != ("space",) * 3:
        raise ArrayError(
            f"{path} has the axes {', '.join(stack.axis_names)} and the shape {stack.shape}, but a stack of grey "
            "values is due, with the axes z, y, x"
        )
    is_unknown = stack.scale("nm") == (1, 1, 1)  # what bellis assumes of files that say nothing
    return open_ds(path, voxel_size=VOXEL_NM) if is_unknown else stack


def open_beside(path: str | Path, stack: Array, what: str) -> Array:
    """Open a volume that has the voxels of a stack."""
    volume = open_stack(path)
    if (volume.roi, volume.voxel_size, volume.units) != (stack.roi, stack.voxel_size, stack.units):
        raise ArrayError(f"the {what} is not of the stack: it is {volume}, the stack is {stack}")
    return volume
