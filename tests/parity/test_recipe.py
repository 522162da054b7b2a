"""The recipe against the values that its description prints."""

from __future__ import annotations

import numpy as np
from tests.parity import recipe


def test_weights_are_those_of_the_description() -> None:
    values = recipe.weight("decoder.conv2.weight", (4, 3, 3, 3)).ravel()[:5]

    expected = [-0.07030493, 0.28237766, 0.23151077, -0.08374484, 0.3131115]
    np.testing.assert_allclose(values, expected, rtol=1e-7)


def test_variances_are_those_of_the_description() -> None:
    values = recipe.weight("decoder.bn.running_var", (5,))

    expected = [1.0232958, 1.015543, 1.1374581, 1.1419151, 1.0436728]
    np.testing.assert_allclose(values, expected, rtol=1e-7)


def test_images_are_those_of_the_description() -> None:
    pixels = recipe.image("parity/0", 4, 6)[0, :2]

    assert pixels.tolist() == [[57, 80, 131], [211, 72, 100]]
