"""What holds and rungs mean for one call: refused, degraded, or left alone at the cost of one look."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from app.budgets.degrade import degraded
from app.budgets.policy import RUNG_HEADER, Rung
from app.budgets.scope import described, scopes_of
from app.deferred.deadline import HEADER as DEADLINE_HEADER
from app.errors import ApiError
from app.observability.metrics import HELD_REQUESTS

if TYPE_CHECKING:
    from app.budgets.control import ControlSource, Standing
    from app.keys import Identity
    from app.models import Models
    from app.observability.metrics import Metrics
    from app.pipeline.endpoints import Endpoint

PUT_OFF_SECONDS = 3_600
"""A background request that is put off comes back after so long, or at the window's end when that is nearer."""


class BudgetGate:
    """Reads the switches of this second. Nothing is held and nothing degraded: then it costs a look at two maps."""

    def __init__(
        self, control: ControlSource, metrics: Metrics, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._control = control
        self._metrics = metrics
        self._wall_clock = wall_clock

    def leaves_alone(self, identity: Identity, model: str) -> bool:
        """Whether nothing that a call belongs to is held or degraded."""
        holds, rungs = self._control.current.holds, self._control.current.rungs
        return not (holds or rungs) or not any(scope in holds or scope in rungs for scope in scopes_of(identity, model))

    def admit(self, identity: Identity, model: str) -> None:
        """Let a call pass; raises ApiError 403 `spending_held` that names the scope and the way out."""
        holds = self._control.current.holds
        if not holds:
            return
        for scope in scopes_of(identity, model):
            if scope in holds:
                self._metrics.count(HELD_REQUESTS)
                # Who did it and why is the operators': `show` tells them.
                raise ApiError(
                    "spending_held",
                    f"Spending of {described(scope)} is on hold since {holds[scope].at}: every request that costs "
                    f"money is refused until an operator releases it (python -m app.budgets release {scope}).",
                )

    def held(self, identity: Identity, model: str) -> bool:
        """Whether a call would not pass now."""
        return any(scope in self._control.current.holds for scope in scopes_of(identity, model))

    def may_use(self, model: str) -> bool:
        """Whether a model may answer in another's place."""
        return f"model:{model}" not in self._control.current.holds

    def place(self, identity: Identity, model: str) -> tuple[str, Standing] | None:
        """The scope of a call that is on the highest rung, and that rung; None when none is degraded."""
        rungs = self._control.current.rungs
        if not rungs:
            return None
        now = self._wall_clock()
        # A window that has ended takes its rung with it, whether somebody wrote the next one yet or not.
        found = [
            (scope, rungs[scope]) for scope in scopes_of(identity, model) if scope in rungs and now < rungs[scope].until
        ]
        return max(found, key=lambda entry: entry[1].rung, default=None)

    def degrade(
        self, endpoint: Endpoint, document: Mapping[str, Any], models: Models, identity: Identity, *, background: bool
    ) -> tuple[Rung, Mapping[str, Any]]:
        """The rung of a call and its body as it is planned there.

        Raises ApiError: 404 for an unknown model, 429 `insufficient_quota` for a background request that has to wait.
        """
        if not self._control.current.rungs:
            return Rung.NORMAL, document
        named = document.get("model") or models.default_model
        # The budget of a model is charged under OpenAI's name, whatever alias was asked for.
        model = models.resolve(named, endpoint.kind).name if endpoint.output_caps else named
        place = self.place(identity, model)
        if place is None:
            return Rung.NORMAL, document
        scope, standing = place
        if background and standing.rung >= Rung.DEFERRED:
            raise self._put_off(scope, standing)
        return standing.rung, degraded(endpoint, document, models, models.budget, standing.rung)

    def _put_off(self, scope: str, standing: Standing) -> ApiError:
        left = standing.until - self._wall_clock()
        seconds = str(max(1, int(left if standing.rung >= Rung.PRIORITY else min(left, PUT_OFF_SECONDS))))
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(standing.until))
        return ApiError(
            "insufficient_quota",
            f"The budget of {described(scope)} is on the rung '{standing.rung.label}', where background requests wait: "
            f"come back in {seconds} s (its window ends at {end}), say by '{DEADLINE_HEADER}' how long it may wait for "
            "a batch at half the price, or send it as interactive.",
            headers={"retry-after": seconds, "x-should-retry": "false", RUNG_HEADER: standing.rung.label},
        )
