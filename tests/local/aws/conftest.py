"""One emulated AWS for the tests of a module, empty before each test."""

from collections.abc import Iterator

import pytest

from tests.local.aws.rig import Rig


@pytest.fixture(scope="module")
def shared_rig() -> Iterator[Rig]:
    """An emulated AWS with everything that deploying asks for."""
    made = Rig()
    yield made
    made.close()


@pytest.fixture
def rig(shared_rig: Rig) -> Rig:
    """The same, emptied."""
    shared_rig.admin("reset")
    return shared_rig
