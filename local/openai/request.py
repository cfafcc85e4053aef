"""One request on its way through the simulator."""

from typing import Any

from local.openai.faults import Fault
from local.openai.journal import Entry
from local.openai.models import MODELS, Model
from local.openai.prompt_cache import Cached
from local.openai.state import Simulator
from local.openai.wire import Wire

DEFAULT_MODERATION_MODEL = "omni-moderation-latest"


class Request:
    """Its journal entry, the wire back, its body and model once known, and the fault that strikes it."""

    def __init__(self, simulator: Simulator, entry: Entry, wire: Wire, raw: bytes, query: str) -> None:
        self.simulator = simulator
        self.entry = entry
        self.wire = wire
        self.raw = raw
        self.query = query
        self.key = entry.key
        self.body: dict[str, Any] = {}
        self.model: Model = MODELS[DEFAULT_MODERATION_MODEL]
        self.fault: Fault | None = None

    def admit_request(self) -> None:
        """Charge one request to the limits and show them in the headers; 429 when there is none left."""
        try:
            self.simulator.limits.take_request(self.key, self.model)
        finally:
            self._show_limits()

    def admit_tokens(self, tokens: int) -> None:
        """Charge tokens to the limits and show them in the headers; 429 when there are too few left."""
        try:
            self.simulator.limits.take_tokens(self.key, self.model, tokens)
        finally:
            self._show_limits()

    def _show_limits(self) -> None:
        self.wire.headers |= self.simulator.limits.headers(self.key, self.model)

    def note(self, cached: Cached, output_tokens: int, reasoning_tokens: int = 0, tier: str = "default") -> None:
        """Write what will be billed into the journal."""
        entry = self.entry
        entry.input_tokens, entry.cached_tokens = cached.input_tokens, cached.read_tokens
        entry.cache_write_tokens = cached.written_tokens
        entry.output_tokens, entry.reasoning_tokens, entry.service_tier = output_tokens, reasoning_tokens, tier
        entry.worked = True

    async def strike(self) -> bool:
        """Apply the scripted fault that matches; True when the request is answered (or broken) by it."""
        fault = self.fault = self.simulator.faults.take(self.entry.method, self.entry.path, self.entry.model, self.key)
        if fault is None:
            return False
        self.entry.fault = fault.kind
        if fault.kind == "status":
            raise fault.error()
        if fault.kind == "html":
            await self.wire.html(fault.status or 200)
            return True
        if fault.kind == "disconnect":
            self.wire.disconnect()
            return True
        if fault.kind == "delay":
            await self.simulator.clock.sleep(fault.seconds)
        return False

    async def reply(self, value: dict[str, Any]) -> None:
        """Send a whole JSON answer, or what the fault makes of it."""
        fault = self.fault
        if fault is not None and fault.kind in ("stall", "cut", "malformed"):
            await self.wire.broken_json(value, fault)
        elif fault is not None and fault.kind == "error_event":
            raise fault.error()
        else:
            if fault is not None and fault.kind in ("slow_first_token", "drip"):
                await self.simulator.clock.sleep(fault.seconds)
            await self.wire.json(value)
