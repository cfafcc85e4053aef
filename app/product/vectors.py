"""A document's passages with their vectors: the file in S3, and the matrix in memory that a question meets."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from app.product.chunks import Passage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 1
_OBJECT_BYTES = 200  # a passage's Python objects besides its text and its vector


@dataclass(frozen=True, slots=True)
class Vector:
    """An embedding and the model that made it: vectors of two models cannot be compared, even of one length."""

    model: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Segment:
    """One document's passages, and a row of length 1 for each (float32, passages x dimensions)."""

    model: str
    passages: list[Passage]
    rows: NDArray[np.float32]
    size: int
    """Bytes of memory it holds."""

    def nearest(self, vector: Vector, k: int) -> list[tuple[float, Passage]]:
        """The k passages of highest cosine similarity (-1 to 1), best first; none for a vector of another model."""
        import numpy as np

        asked = _unit(np.asarray([vector.values], dtype=np.float32))[0]
        if self.model != vector.model or asked.shape[0] != self.rows.shape[1]:
            return []
        scores = self.rows @ asked
        best = np.argsort(-scores, kind="stable")[:k]
        return [(float(scores[row]), self.passages[row]) for row in best]


def pack(model: str, passages: Sequence[Passage], vectors: Sequence[Sequence[float]]) -> bytes:
    """The passages file as JSON: the vectors are base64 of little-endian float32, one row a passage.

    Raises ValueError when there is not one vector of one and the same length for each passage.
    """
    import numpy as np

    rows = np.asarray(vectors, dtype="<f4")
    if rows.ndim != 2 or len(rows) != len(passages):
        raise ValueError(f"{len(passages)} passages have vectors of shape {rows.shape}")
    chunks = [{"start": p.start, "end": p.end, "text": p.text} for p in passages]
    packed = base64.b64encode(rows.tobytes()).decode()
    head = {"version": VERSION, "model": model, "dimensions": rows.shape[1]}
    return orjson.dumps({**head, "chunks": chunks, "vectors": packed})


def unpack(file: bytes) -> Segment:
    """The segment in a passages file; raises ValueError when `pack` of this version did not write it."""
    import numpy as np

    found: dict[str, Any] = orjson.loads(file)
    if found.get("version") != VERSION:
        raise ValueError(f"a passages file of version {found.get('version')}; this app reads {VERSION}")
    passages = [Passage(chunk["start"], chunk["end"], chunk["text"]) for chunk in found["chunks"]]
    rows = np.frombuffer(base64.b64decode(found["vectors"]), dtype="<f4").reshape(len(passages), found["dimensions"])
    size = rows.nbytes + sum(len(p.text.encode()) + _OBJECT_BYTES for p in passages)
    return Segment(found["model"], passages, _unit(rows), size)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows scaled to length 1; a row of zeros stays one, so it is near to nothing."""
    import numpy as np

    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return scaled
