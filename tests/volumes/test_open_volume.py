"""open_volume: which class a description file asks for."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bellis import DescriptionError
from bellis.volumes import BlockwiseFileset, CachedVolume, RemoteVolume, open_volume

if TYPE_CHECKING:
    from collections.abc import Mapping

BOCK = Path(__file__).parents[3] / "shared" / "data" / "bock11-description.json"
REMOTE = {
    "_schema_name": "RESTful-volume-description",
    "_schema_version": 1.0,
    "name": "remote",
    "format": "hdf5",
    "axes": "zyx",
    "bounds": [40, 50, 60],
    "dtype": "uint8",
    "url_format": "http://127.0.0.1:9/{x_start},{x_stop}/{y_start},{y_stop}/{z_start},{z_stop}/",
    "hdf5_dataset": "cube",
}
LOCAL = {
    "_schema_name": "blockwise-fileset-description",
    "_schema_version": 1.0,
    "name": "local",
    "format": "hdf5",
    "axes": "zyx",
    "shape": [40, 50, 60],
    "dtype": "uint8",
    "block_shape": [16, 16, 16],
    "block_file_name_format": "block-{roiString}.h5/cube",
    "dataset_root_dir": "blocks",
}
COMPOSITE = {
    "_schema_name": "RESTful-blockwise-fileset-description",
    "_schema_version": 1.0,
    "remote_description": REMOTE,
    "local_description": LOCAL,
}
OURS = {
    "_schema_name": "bellis-volume-description",
    "_schema_version": 1.0,
    "name": "ours",
    "source": {
        "url_format": "http://127.0.0.1:9/{x_start}-{x_stop}/{y_start}-{y_stop}/{z_start}-{z_stop}",
        "payload": "raw",
        "axes": "zyx",
        "dtype": "uint8",
        "shape": [40, 50, 60],
    },
    "cache": {"directory": "kept", "block_shape": [16, 16, 16]},
}


def described(folder: Path, said: Mapping[str, Any]) -> Path:
    path = folder / "em.json"
    path.write_text(json.dumps(said))
    return path


@pytest.mark.parametrize(
    ("said", "kind"),
    [(REMOTE, RemoteVolume), (LOCAL, BlockwiseFileset), (COMPOSITE, CachedVolume), (OURS, CachedVolume)],
)
def test_a_description_says_what_is_opened(tmp_path: Path, said: Mapping[str, Any], kind: type) -> None:
    with open_volume(described(tmp_path, said)) as volume:
        assert type(volume) is kind
        assert tuple(volume.shape) == (40, 50, 60)
        assert volume.dtype == "uint8"


@pytest.mark.parametrize(("said", "folder"), [(COMPOSITE, "blocks"), (OURS, "kept")])
def test_blocks_are_kept_beside_the_description(tmp_path: Path, said: Mapping[str, Any], folder: str) -> None:
    with open_volume(described(tmp_path, said)) as volume:
        assert Path(volume.path).is_relative_to(tmp_path / folder)


def test_it_travels_to_another_process(tmp_path: Path) -> None:
    with open_volume(described(tmp_path, OURS)) as volume, pickle.loads(pickle.dumps(volume)) as again:
        assert (again.name, again.path, again.shape) == (volume.name, volume.path, volume.shape)


def test_mistakes_are_named_all_at_once(tmp_path: Path) -> None:
    said = {**LOCAL, "blok_shape": [1, 1, 1], "axes": "zyq"}
    with pytest.raises(DescriptionError, match="block_shape") as caught:
        open_volume(described(tmp_path, said))
    assert len(caught.value.problems) >= 2


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match=r"nothing\.json"):
        open_volume(tmp_path / "nothing.json")


@pytest.mark.skipif(not BOCK.exists(), reason="needs shared data")
def test_a_real_description_is_opened_without_a_request(tmp_path: Path) -> None:
    copy = tmp_path / "bock11.json"
    copy.write_text(BOCK.read_text())
    with open_volume(copy) as volume:
        assert isinstance(volume, CachedVolume)
        assert volume.shape == (1233, 2560, 2560)
        assert sum(1 for _ in volume.block_indices()) == 3900
