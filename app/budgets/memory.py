"""What the watcher remembers of a scope between two looks, and the lease that lets one replica watch for all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.aws import Aws, error_code
from app.awsjson.wire import MOST_KEYS
from app.budgets.control import CONTROL_KEY, Standing, rungs_attribute
from app.budgets.history import History
from app.budgets.ladder import Place
from app.budgets.policy import Rung

LEASE_SECONDS = 120
RENEW_SECONDS = 60.0
_OF = "BUDGET#"
_LEASE_KEY = {"pk": {"S": "CONTROL"}, "sk": {"S": "WATCHER"}}


@dataclass(slots=True)
class Memory:
    """Of one scope."""

    history: History = field(default_factory=History)
    month: str = ""
    """The month whose spending was read last."""
    spent: int = 0
    """What had been spent in it, in pico-dollars."""
    places: dict[str, Place] = field(default_factory=dict)
    """Kind of window -> its rung."""
    told: dict[str, int] = field(default_factory=dict)
    """Window -> the highest rung that people were told of."""
    runaway_at: float = 0.0
    """When a runaway was seen last; 0 when none is going on."""

    @property
    def marks(self) -> object:
        """What another watcher has to know at once, should this one die."""
        return dict(self.places), dict(self.told), bool(self.runaway_at)

    def rate(self, spent: int, month: str, now: float) -> float:
        """Pico-dollars a second since the last look, when so much is spent now."""
        since = self.history.seen_at
        if self.month != month or since is None or now <= since:
            return 0.0
        return max(0, spent - self.spent) / (now - since)

    def to_text(self) -> str:
        """As the table keeps it."""
        return json.dumps(
            {
                "history": self.history.to_json(),
                "month": self.month,
                "spent": self.spent,
                "places": {kind: [int(p.rung), p.since, p.window] for kind, p in self.places.items()},
                "told": self.told,
                "runaway_at": self.runaway_at,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_text(cls, text: str) -> Memory:
        """What `to_text` gave."""
        kept = json.loads(text)
        places = {kind: Place(Rung(rung), since, window) for kind, (rung, since, window) in kept["places"].items()}
        history = History.from_json(kept["history"])
        return cls(history, kept["month"], kept["spent"], places, kept["told"], kept["runaway_at"])


class Memories:
    """Reads and writes memories, the lease and the rungs in the state table. Every method raises botocore's errors."""

    def __init__(self, aws: Aws, table: str, owner: str) -> None:
        """`owner` is this process, among all that might watch."""
        self._aws = aws
        self._table = table
        self._owner = owner
        self._renew_at: float | None = None
        """When the lease is written again; None while it is another's."""

    async def lead(self, now: float) -> bool:
        """Whether this process watches now: it did, or nobody has for LEASE_SECONDS."""
        if self._renew_at is None:
            # Looked at first: a write that is refused costs as much as one that is not.
            answer = await self._call("get_item", Key=_LEASE_KEY)
            if float(answer.get("Item", {}).get("until", {"N": "0"})["N"]) >= int(now):
                return False
        elif now < self._renew_at:
            return True
        self._renew_at = None
        try:
            await self._call(
                "update_item",
                Key=_LEASE_KEY,
                UpdateExpression="SET #o = :me, #u = :until",
                ConditionExpression="attribute_not_exists(pk) OR #o = :me OR #u < :now",
                ExpressionAttributeNames={"#o": "owner", "#u": "until"},
                ExpressionAttributeValues={
                    ":me": {"S": self._owner},
                    ":now": {"N": str(int(now))},
                    ":until": {"N": str(int(now) + LEASE_SECONDS)},
                },
            )
        except Exception as error:
            if error_code(error) != "ConditionalCheckFailedException":
                raise
            return False
        self._renew_at = now + RENEW_SECONDS
        return True

    async def leave(self) -> None:
        """Let another process watch from now on, if this one does."""
        if self._renew_at is None:
            return
        self._renew_at = None
        await self._call(
            "update_item",
            Key=_LEASE_KEY,
            UpdateExpression="SET #u = :over",
            ConditionExpression="#o = :me",
            ExpressionAttributeNames={"#o": "owner", "#u": "until"},
            ExpressionAttributeValues={":me": {"S": self._owner}, ":over": {"N": "0"}},
        )

    async def read(self, scopes: Sequence[str]) -> dict[str, Memory]:
        """What is remembered of scopes; an empty memory of each new one."""
        found = dict.fromkeys(scopes, "")
        for at in range(0, len(scopes), MOST_KEYS):
            keys = [_memory_key(scope) for scope in scopes[at : at + MOST_KEYS]]
            while keys:
                wanted = {self._table: {"Keys": keys, "ConsistentRead": True}}
                answer = await self._aws.call("dynamodb", "batch_get_item", RequestItems=wanted)
                for item in answer["Responses"].get(self._table, ()):
                    found[item["pk"]["S"].removeprefix(_OF)] = item["memory"]["S"]
                keys = answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", [])
        return {scope: Memory.from_text(text) if text else Memory() for scope, text in found.items()}

    async def keep(self, scope: str, memory: Memory) -> None:
        """Remember."""
        await self._call("put_item", Item={**_memory_key(scope), "memory": {"S": memory.to_text()}})

    async def publish(self, rungs: Mapping[str, Standing]) -> None:
        """Let every replica act by these rungs, within two seconds."""
        await self._call(
            "update_item",
            Key=CONTROL_KEY,
            UpdateExpression="SET rungs = :rungs",
            ExpressionAttributeValues={":rungs": rungs_attribute(rungs)},
        )

    async def _call(self, operation: str, **parameters: Any) -> Any:
        return await self._aws.call("dynamodb", operation, TableName=self._table, **parameters)


def _memory_key(scope: str) -> dict[str, Any]:
    return {"pk": {"S": f"{_OF}{scope}"}, "sk": {"S": "WATCH"}}
