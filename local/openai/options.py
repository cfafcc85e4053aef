"""How a simulator behaves, as said when it starts."""

from dataclasses import dataclass, field

from local.openai.clock import Clock, RealClock


@dataclass(slots=True)
class Options:
    """How a simulator behaves.

    `speed` multiplies every model latency (0 answers at once, 1 plays the model's own); `rpm` and `tpm` replace the
    models' limits; `seed` fixes the jitter; `today` (ISO date) decides which models are shut down (None: the day it
    is); `day_seconds` is how long the day takes in which a batch has to be done.
    """

    speed: float = 0.0
    seed: int = 0
    rpm: int | None = None
    tpm: int | None = None
    today: str | None = None
    day_seconds: float = 86_400.0
    clock: Clock = field(default_factory=RealClock)
