"""What the tests of killed, sleeping and starving processes begin with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.crash_cases import Cases

pytest.register_assert_rewrite("tests.crash_cases")


@pytest.fixture(scope="module")
def cases() -> Iterator[Cases]:
    """Working folders to begin in."""
    from tests.crash_cases import made_cases  # which loads torch, as the others here need not

    with made_cases() as made:
        yield made
