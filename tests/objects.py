"""Whether two label images show the same objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def assert_same_objects(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """Each number of one stands for one number of the other, and 0 for 0."""
    assert found.max(initial=0) < 2**31
    assert expected.max(initial=0) < 2**31
    pairs = np.unique(found.ravel().astype(np.int64) << 32 | expected.ravel().astype(np.int64))
    left, right = pairs >> 32, pairs & (2**32 - 1)
    assert len(np.unique(left)) == len(np.unique(right)) == len(pairs)
    assert ((left == 0) == (right == 0)).all()
