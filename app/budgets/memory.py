"""What the watcher remembers of a scope between two looks, and the lease that lets one replica watch for all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.aws import Aws, error_code
from app.budgets.control import CONTROL_KEY, Standing, rungs_attribute
from app.budgets.history import History
from app.budgets.ladder import Place
from app.budgets.policy import Rung

LEASE_SECONDS = 90
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

    async def lead(self, now: float) -> bool:
        """Whether this process watches now: it did, or nobody has for LEASE_SECONDS."""
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
        return True

    async def read(self, scope: str) -> Memory:
        """What is remembered of a scope; an empty memory of a new one."""
        answer = await self._call("get_item", Key=_memory_key(scope), ConsistentRead=True)
        text = answer.get("Item", {}).get("memory", {}).get("S")
        return Memory.from_text(text) if text else Memory()

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
    return {"pk": {"S": f"BUDGET#{scope}"}, "sk": {"S": "WATCH"}}
