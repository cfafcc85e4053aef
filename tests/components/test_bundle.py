from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components._bundle import HASH_CHARACTERS, context_files, context_hash


def _context(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def test_caches_and_bytecode_never_enter_the_image(tmp_path: Path) -> None:
    folder = _context(
        tmp_path,
        {"Dockerfile": b"", "a/b.py": b"", "a/__pycache__/b.pyc": b"", "c.pyc": b"", ".mypy_cache/x": b""},
    )
    assert list(context_files(folder)) == ["Dockerfile", "a/b.py"]


def test_a_folder_without_dockerfile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no Dockerfile; name the folder"):
        context_files(tmp_path)


def test_the_hash_follows_every_byte_name_and_setting(tmp_path: Path) -> None:
    before = context_hash(context_files(_context(tmp_path, {"Dockerfile": b"a", "x": b"1"})), "ARM64")
    assert len(before) == HASH_CHARACTERS
    assert before == context_hash(context_files(tmp_path), "ARM64")
    assert before != context_hash(context_files(tmp_path), "X86_64")
    (tmp_path / "x").write_bytes(b"2")
    assert before != context_hash(context_files(tmp_path), "ARM64")
    (tmp_path / "x").write_bytes(b"1")
    (tmp_path / "x").rename(tmp_path / "y")
    assert before != context_hash(context_files(tmp_path), "ARM64")


CONTEXTS = st.dictionaries(st.sampled_from(["a", "b", "ab", "d/a", "d/b"]), st.binary(max_size=3))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(one=CONTEXTS, other=CONTEXTS)
def test_different_contexts_have_different_hashes(
    tmp_path_factory: pytest.TempPathFactory, one: dict[str, bytes], other: dict[str, bytes]
) -> None:
    hashes = [
        context_hash(context_files(_context(tmp_path_factory.mktemp("context"), {"Dockerfile": b"", **files})))
        for files in (one, other)
    ]
    assert (hashes[0] == hashes[1]) == (one == other)
