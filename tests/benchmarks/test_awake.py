"""CPUs that are kept from halting, where that is allowed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import awake


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    awake.can_keep_awake.cache_clear()
    yield
    awake.can_keep_awake.cache_clear()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc here")
def test_the_wish_for_no_latency_holds_as_long_as_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "cpu_dma_latency"
    device.touch()
    monkeypatch.setattr(awake, "QUALITY_OF_SERVICE", device)
    assert awake.can_keep_awake()
    with awake.kept_awake():
        assert device.read_bytes() == bytes(4)  # a C int, microseconds
        assert str(device) in opened()
    assert str(device) not in opened()


def opened() -> set[str]:
    """Every file that this process has open."""
    return {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}


def test_where_it_is_not_allowed_nothing_is_measured_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awake, "QUALITY_OF_SERVICE", tmp_path)  # nobody may write into a folder
    assert not awake.can_keep_awake()
    with pytest.raises(OSError, match="directory"), awake.kept_awake():
        pass
