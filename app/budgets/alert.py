"""What people are told about a budget: what happened, why, what happens next, and the one command to act."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo
from typing import TYPE_CHECKING

from app.aws import Aws, error_code
from app.budgets.ladder import Standing
from app.budgets.policy import MEANING, Policy, Rung
from app.budgets.scope import described
from app.budgets.window import Span, moment
from app.prices import usd

if TYPE_CHECKING:
    from app.budgets.runaway import Runaway

KEPT_SECONDS = 90 * 86_400
"""How long the table remembers that something was told."""
MOST_REMEMBERED = 10_000
MAX_SUBJECT = 100  # characters, SNS
_SPANS = {Span.DAY: "daily", Span.MONTH: "monthly"}


@dataclass(frozen=True, slots=True)
class Alert:
    """One message. `scope`, `window` and `kind` say what it is about: nobody is told the same twice."""

    scope: str
    window: str
    kind: str
    subject: str
    what: str
    why: str
    next: str
    act: str

    def text(self) -> str:
        """The message."""
        return "\n".join(
            [
                f"What happened: {self.what}",
                f"Why: {self.why}",
                f"What happens next: {self.next}",
                f"What you can do: {self.act}",
            ]
        )


def rung_alert(scope: str, standing: Standing, rung: Rung, zone: tzinfo) -> Alert:
    """A budget went up to a rung that nobody was told of in this window."""
    whose = f"the {_SPANS[standing.window.span]} budget of {described(scope)}"
    end = moment(standing.window.end, zone)
    higher = Rung(min(rung + 1, Rung.REFUSED))
    if rung is Rung.REFUSED:
        next_ = f"requests are refused until {end}, when the next window begins"
    else:
        next_ = f"spending is looked at again all the time; the next rung is '{higher.label}': {MEANING[higher]}"
    return Alert(
        scope,
        standing.window.name,
        f"rung-{rung.label}",
        f"Budget of {described(scope)}: {rung.label}",
        f"{whose} is on the rung '{rung.label}': {MEANING[rung]}",
        _why(standing),
        next_,
        f"raise it: {_set(scope, standing)}",
    )


def spent_alert(scope: str, standing: Standing, percent: int, zone: tzinfo) -> Alert:
    """So many percent of a budget are spent."""
    return Alert(
        scope,
        standing.window.name,
        f"spent-{percent}",
        f"Budget of {described(scope)}: {percent} % spent",
        f"{percent} % of the {_SPANS[standing.window.span]} budget of {described(scope)} are spent",
        _why(standing),
        f"the budget holds until {moment(standing.window.end, zone)}; the ladder degrades answers where that saves it",
        f"raise it: {_set(scope, standing)}",
    )


def recovered_alert(scope: str, standing: Standing, since: float, zone: tzinfo) -> Alert:
    """A budget came back from a rung that people were told of."""
    return Alert(
        scope,
        standing.window.name,
        f"recovered-{since:.0f}",
        f"Budget of {described(scope)}: recovered",
        f"nothing is degraded any more for {described(scope)}",
        _why(standing),
        f"the budget is judged on until {moment(standing.window.end, zone)}",
        "nothing has to be done; see it: python -m app.budgets show",
    )


def runaway_alert(scope: str, found: Runaway, *, held: bool, window: str, hour: int) -> Alert:
    """A tenant spends out of its habit."""
    hours = "hour" if found.hours == 1 else f"{found.hours} hours"
    times = f"{found.times:.1f} times" if found.expected else "after weeks of nothing,"
    what = f"{described(scope)} spent {usd(found.spent)} in the last {hours}, {times} what these hours cost as a rule"
    act = f"python -m app.budgets {'release' if held else 'hold'} {scope} --why '...'"
    return Alert(
        scope,
        window,
        f"runaway-{hour}",
        f"Runaway spending: {described(scope)}",
        what,
        f"the rule is {usd(found.expected)}, from the last four weeks; everything above {usd(found.threshold)} is told",
        "its requests are held until somebody releases it" if held else "it goes on spending up to its budgets",
        f"{'let it go on' if held else 'stop it within two seconds'}: {act}",
    )


def calm_alert(scope: str, window: str, hour: int) -> Alert:
    """A runaway is over."""
    return Alert(
        scope,
        window,
        f"calm-{hour}",
        f"Spending back to its habit: {described(scope)}",
        f"{described(scope)} has spent as usual for three hours",
        "its last hours are within their rule again",
        "it is watched on",
        "nothing has to be done; a hold stays until it is released: python -m app.budgets show",
    )


class Teller:
    """Publishes alerts to the topic, each once, whichever replica looks."""

    def __init__(self, aws: Aws, table: str, topic_arn: str, stack: str, note: Callable[[Alert, str], None]) -> None:
        """`note` writes an alert and what became of it to the log; without a topic the log is all there is."""
        self._aws = aws
        self._table = table
        self._topic = topic_arn
        self._stack = stack
        self._note = note
        self._told: set[tuple[str, str, str]] = set()
        """What the table is known to remember: nobody asks it at every look."""

    async def tell(self, alert: Alert, now: float) -> bool:
        """Tell it unless it was told; whether it was told now. Raises botocore's errors, and then it is told again."""
        name = (alert.scope, alert.window, alert.kind)
        if name in self._told:
            return False
        key = {"pk": {"S": f"ALERT#{alert.scope}"}, "sk": {"S": f"{alert.window}#{alert.kind}"}}
        try:
            await self._aws.call(
                "dynamodb",
                "put_item",
                TableName=self._table,
                Item={**key, "expires_at": {"N": str(int(now + KEPT_SECONDS))}},
                ConditionExpression="attribute_not_exists(pk)",
            )
        except Exception as error:
            if error_code(error) != "ConditionalCheckFailedException":
                raise
            self._remember(name)
            return False
        if self._topic:
            subject = f"[prodkit {self._stack}] {alert.subject}"[:MAX_SUBJECT]
            try:
                await self._aws.call(
                    "sns", "publish", TopicArn=self._topic, Subject=subject, Message=alert.text() + "\n"
                )
            except Exception as error:
                # Nobody was told: the next look has to try again.
                await self._aws.call("dynamodb", "delete_item", TableName=self._table, Key=key)
                self._note(alert, error_code(error))
                raise
        self._note(alert, "told" if self._topic else "no topic")
        self._remember(name)
        return True

    def _remember(self, name: tuple[str, str, str]) -> None:
        if len(self._told) >= MOST_REMEMBERED:
            self._told.clear()
        self._told.add(name)


def due_percents(policy: Policy, standing: Standing) -> list[int]:
    """The shares of a budget that are spent and have to be told."""
    return [percent for percent in policy.spent_percents if standing.counted * 100 >= standing.limit * percent]


def _why(standing: Standing) -> str:
    share = f"{standing.share:.0%} of it" if standing.limit else "more than the nothing that is allowed"
    return (
        f"{usd(standing.counted)} of {usd(standing.limit)} are spent, {standing.window.elapsed(standing.now):.0%} of "
        f"the window has passed, and the pace leads to {usd(standing.projected)}, {share}"
    )


def _set(scope: str, standing: Standing) -> str:
    return f"python -m app.budgets set {scope} {standing.window.span} USD --why '...'"
