"""Smooth a head scan, find its tissue and measure it, block by block.

    bellis run examples/brain/pipeline.py:pipeline --input scan.nii.gz

Any volume will do: NIfTI, a TIFF stack or a zarr array; without one, it is the MNI152 template.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis import Array, ArrayError, Block, Coordinate, Pipeline, Roi, Task, open_ds, prepare_ds

if TYPE_CHECKING:
    import numpy.typing as npt

MM = {"nm": 1e-6, "um": 1e-3, "µm": 1e-3, "micrometer": 1e-3, "mm": 1.0}
TRUNCATE = 4.0  # where the kernel ends, in sigma: scipy's own default


def pipeline(
    input: Path | None = None,  # noqa: A002  (it becomes the option --input)
    output: Path = Path("demo"),
    *,
    block: int = 64,
    sigma_mm: float = 1.0,
    threshold: float = 120.0,
) -> Pipeline:
    """Describe the run: three tasks, in each of which a block waits for those that it reads.

    Parameters
    ----------
    input
        ``.nii``, ``.nii.gz``, ``.tif`` (at 1 mm per voxel) or a zarr array; axes z, y, x.
    output
        Folder for ``brain.zarr``, with the arrays raw, smoothed and mask.
    block
        Edge of a block, in voxels.
    sigma_mm
        Standard deviation of the Gaussian, in mm.
    threshold
        Tissue is what is brighter than this after smoothing.
    """
    store = Path(output).absolute() / "brain.zarr"
    raw_path = stored_volume(input, store)
    raw = open_ds(raw_path)
    if len(raw.shape) != 3:
        raise ValueError(f"{raw_path} has shape {raw.shape}, but three axes (z, y, x) are due")
    paths = {"raw": raw_path, "smoothed": store / "smoothed", "mask": store / "mask"}
    write = Roi((0, 0, 0), block * raw.voxel_size)
    for name, dtype in (("smoothed", "float32"), ("mask", "uint8")):
        output_array(paths[name], raw, dtype, write.shape)
    made_ns = [(paths[name] / "zarr.json").stat().st_mtime_ns for name in ("smoothed", "mask")]

    sigma_px = tuple(sigma_mm / mm for mm in voxel_mm(raw))
    context = Coordinate(int(TRUNCATE * sigma + 0.5) for sigma in sigma_px) * raw.voxel_size
    common: dict[str, Any] = {
        "read_write_conflict": False,  # no task writes what it reads
        "fit": "shrink",  # clip the last blocks, so that all of the volume is covered
        "num_workers": os.cpu_count() or 1,
        # Another volume, or new arrays in place of deleted ones: no block is done.
        "version": f"{raw.attrs.get('source', raw_path)}, into arrays of {made_ns}",
    }
    smoothing = partial(smooth_block, paths=paths, sigma_px=sigma_px)
    masking = partial(mask_block, paths=paths, threshold=threshold)
    measuring = partial(measure_block, paths=paths)

    total, read = raw.roi.grow(context, context), write.grow(context, context)
    smooth = Task("smooth", total, read, write, smoothing, **common)
    mask = Task("mask", raw.roi, write, write, masking, **common)
    measure = Task("measure", raw.roi, write, write, measuring, results=True, **common)
    return smooth + mask + measure


def output_array(path: Path, like: Array, dtype: str, write_size: Coordinate) -> Array:
    """Make an array as large as ``like``, or go on with the one that is there, if it is as large."""
    form = {"write_size": write_size, "units": like.units}
    try:
        return prepare_ds(path, like.roi, like.voxel_size, dtype, **form)
    except ArrayError:  # of another volume
        return prepare_ds(path, like.roi, like.voxel_size, dtype, **form, mode="w")


def smooth_block(block: Block, *, paths: dict[str, Path], sigma_px: tuple[float, ...]) -> None:
    """Blur one block, exactly as if the volume were blurred at once."""
    from scipy.ndimage import gaussian_filter

    # Outside of the volume there is no context: there, the filter mirrors the volume itself.
    raw = open_ds(paths["raw"]).intersect(block.read_roi)
    voxels = gaussian_filter(raw.to_ndarray(), sigma_px, output=np.float32, truncate=TRUNCATE)
    smoothed = Array(voxels, raw.roi, raw.voxel_size)
    open_ds(paths["smoothed"], mode="r+")[block.write_roi] = smoothed[block.write_roi]


def mask_block(block: Block, *, paths: dict[str, Path], threshold: float) -> None:
    """Mark tissue with 1."""
    smoothed = open_ds(paths["smoothed"]).to_ndarray(block.write_roi)
    open_ds(paths["mask"], mode="r+")[block.write_roi] = (smoothed > threshold).astype(np.uint8)


def measure_block(block: Block, *, paths: dict[str, Path]) -> dict[str, float]:
    """Return what the tissue of one block adds to the table: few numbers, kept in the journal."""
    raw = open_ds(paths["raw"])[block.write_roi]
    voxels = raw.to_ndarray()
    tissue = voxels[open_ds(paths["mask"]).to_ndarray(block.write_roi) > 0].astype(float)
    mm = voxel_mm(raw)
    begin_mm = [begin / size * edge for begin, size, edge in zip(raw.roi.begin, raw.voxel_size, mm, strict=True)]
    voxel_ml = float(np.prod(mm)) / 1000
    return {
        **dict(zip(("z_mm", "y_mm", "x_mm"), begin_mm, strict=True)),
        "volume_ml": voxels.size * voxel_ml,
        "tissue_ml": tissue.size * voxel_ml,
        "mean": float(tissue.mean()) if tissue.size else 0.0,
        "sd": float(tissue.std()) if tissue.size else 0.0,
    }


def voxel_mm(array: Array) -> tuple[float, ...]:
    """Return the edges of a voxel in mm; 1 mm in an array that does not say."""
    if not {"voxel_size", "resolution"} & array.attrs.keys():
        return (1.0,) * array.dims
    if unknown := set(array.units) - MM.keys():
        raise ValueError(f"units {sorted(unknown)} of the volume are unknown: use {list(MM)}")
    return tuple(n * MM[unit] for n, unit in zip(array.voxel_size, array.units, strict=True))


def stored_volume(source: Path | None, store: Path) -> Path:
    """Return the path of the volume as zarr; what is not zarr is converted, once."""
    source = brain_template() if source is None else Path(source)
    if source.is_dir():
        return source.absolute()
    stat = source.stat()
    origin = f"{source.name}, {stat.st_size} bytes, of {stat.st_mtime_ns}"
    target = store / "raw"
    if target.exists() and open_ds(target).attrs.get("source") == origin:
        return target
    voxels, voxel_size_nm = load_volume(source)
    partial_path = store / "raw.partial"
    array = prepare_ds(partial_path, voxels.shape, voxel_size_nm, voxels.dtype, attrs={"source": origin}, mode="w")
    array[array.roi] = voxels
    if target.exists():
        shutil.rmtree(target)
    partial_path.rename(target)  # so that a conversion that was cut off is never taken for done
    return target


def load_volume(source: Path) -> tuple[npt.NDArray[Any], tuple[int, ...]]:
    """Read a volume, axes z, y, x, and the size of its voxels in nm."""
    if source.name.lower().endswith((".tif", ".tiff")):
        import tifffile

        return tifffile.imread(source), (1_000_000,) * 3
    if not source.name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"{source} is none of .nii, .nii.gz, .tif and zarr")
    import nibabel

    image = nibabel.load(source)
    unit = {"meter": 1e9, "micron": 1e3}.get(image.header.get_xyzt_units()[0], 1e6)
    size_nm = tuple(round(edge * unit) for edge in image.header.get_zooms()[:3])
    voxels = np.asanyarray(image.dataobj).T  # NIfTI has x first
    if voxels.dtype == np.float64:  # an integer image with a scale
        voxels = voxels.astype(np.float32)
    return np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("=")), size_nm[::-1]


def brain_template() -> Path:
    """Return the MNI152 T1 template at 1 mm, which comes with nilearn (that is not imported)."""
    nilearn = importlib.util.find_spec("nilearn")
    if nilearn is None or nilearn.origin is None:
        raise FileNotFoundError(
            "the MNI152 template comes with nilearn, which is not installed: "
            "pip install --no-deps nilearn, or pass a volume of your own as --input"
        )
    name = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    return Path(nilearn.origin).parent / "datasets" / "data" / name
