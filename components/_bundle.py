"""The files of a container image's build context and the hash that names them. Pure but for reading the folder."""

import hashlib
from pathlib import Path

LEFT_OUT = frozenset({"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".DS_Store"})
HASH_CHARACTERS = 24  # 96 bits: an image tag that is readable and does not collide


def context_files(folder: str | Path) -> dict[str, Path]:
    """Files of a build context by their path inside it, sorted; caches of tools are left out.

    Raises ValueError when the folder has no Dockerfile, because nothing could be built from it.
    """
    root = Path(folder)
    files = {
        path.relative_to(root).as_posix(): path
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".pyc" and not LEFT_OUT.intersection(path.relative_to(root).parts)
    }
    if "Dockerfile" not in files:
        raise ValueError(f"Image: source_path={str(folder)!r} has no Dockerfile; name the folder that holds it.")
    return files


def context_hash(files: dict[str, Path], *build_settings: str) -> str:
    """Hex hash of names, contents and build settings: the same context always gets the same image tag."""
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = path.read_bytes()
        digest.update(f"{len(name)}:{name}:{len(content)}:".encode())
        digest.update(content)
    for setting in build_settings:
        digest.update(f"{len(setting)}:{setting}".encode())
    return digest.hexdigest()[:HASH_CHARACTERS]
