from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from panoptic_segformer.data.measuring import measure_segments


@given(
    arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 1, 2, 2**24 - 1]))
)
def test_extents_are_those_of_each_mask(ids):
    extents = measure_segments(ids)
    assert list(extents) == [value for value in np.unique(ids).tolist() if value]
    for value, extent in extents.items():
        rows, columns = np.nonzero(ids == value)
        assert extent.area == len(rows)
        left, top, width, height = extent.box
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_empty_map_has_no_segment(shape):
    assert measure_segments(np.zeros(shape, np.int32)) == {}
