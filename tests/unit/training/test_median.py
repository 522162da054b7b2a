from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kdpipe.datasets import read_truth
from kdpipe.errors import DataError
from kdpipe.rows import Rows
from kdpipe.training.median import fit_median

MakeRows = Callable[..., Rows]


def test_each_pixel_has_the_median_of_the_split(make_tiny: MakeRows) -> None:
    rows = make_tiny(train=5)

    median = fit_median(rows, (48, 64))

    truth = np.stack([read_truth(rows, number) for number in range(5)])
    np.testing.assert_allclose(median, np.median(truth, axis=0), rtol=1e-6)


def test_a_data_set_without_truth_has_none(make_tiny: MakeRows) -> None:
    with pytest.raises(DataError, match="no row of split 'train' has measured depth"):
        fit_median(make_tiny(labelled=False), (48, 64))
