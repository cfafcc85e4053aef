"""What is carried along the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.cache.place import Place
    from app.limits import Grant
    from app.pipeline.choose import Plan
    from app.pipeline.messages import Call
    from app.pipeline.pay import Payment
    from app.pipeline.record import Record
    from app.pipeline.reserve import Turns


@dataclass(slots=True)
class Work:
    """A call whose answer has to be made, and what was set aside for it on the way."""

    call: Call
    record: Record
    plan: Plan
    """Of the model that answers: a fallback replaces it."""
    place: Place | None
    """Where the answer is kept; None = nowhere."""
    payment: Payment
    complete: bool = False
    """The answer came to its natural end on the planned model, so it may be kept."""
    grant: Grant | None = None
    """Tokens reserved, once they are."""
    turns: Turns | None = None
    """Where it waits for its turn, once it is prepared."""
    deadline: float = 0.0
    """Loop time until which the answer, or the beginning of its stream, may come."""
    headers: list[tuple[str, str]] | None = None
    """Our own headers of its answer, as far as they are made while OpenAI is waited for."""
