"""The fixture through which component tests see what a component registers."""

import pytest

from tests.components import recorder


@pytest.fixture(scope="session")
def record() -> recorder.Record:
    """`record(lambda: Cache("c", {...}))` -> every registration; see `tests.components.recorder.record`."""
    return recorder.record
