"""What every test shares."""

import gc
import os

import pytest
from hypothesis import settings

# A busy machine makes any example slow, so none has a deadline. CI tries the same examples each time: a new one that
# fails is for whoever runs the tests at a desk, not for a change that has nothing to do with it.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make test ARGS="tests/app/seen/test_openapi.py --api-examples 500"`"""
    parser.addoption(
        "--api-examples", type=int, default=5, help="requests to each path of the API; above 5 all boundaries too"
    )


@pytest.fixture(scope="module", autouse=True)
def _short_collections() -> None:
    """A full garbage collection would look through all that is imported, and stop every event loop here for that long.

    That is half a second of computing, and more time-outs than one are shorter.
    """
    gc.collect()
    gc.freeze()
