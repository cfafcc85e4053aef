"""Everything one simulator remembers."""

import datetime
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local.openai.ask import Turn
from local.openai.bill import Bill
from local.openai.faults import Faults
from local.openai.journal import Journal
from local.openai.limits import Limits
from local.openai.models import Model, served
from local.openai.options import Options
from local.openai.organization import Organization
from local.openai.prompt_cache import PromptCache

if TYPE_CHECKING:
    from local.openai.batches import Batch
    from local.openai.files import File

_MOST_STORED = 1_000


def key_hash(key: str) -> str:
    """What the simulator shows and compares instead of an API key: 16 hex digits."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


@dataclass(slots=True)
class Stored:
    """A response kept by `store`: whose it is, the object, and the turns a later request continues from."""

    key: str
    response: dict[str, Any]
    turns: list[Turn]


class Simulator:
    """The state shared by the API and the admin path. Create it inside the event loop that uses it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.clock = options.clock
        self.limits = Limits(options.clock, options.rpm, options.tpm)
        self.faults = Faults()
        self.journal = Journal()
        self.bill = Bill()
        self.prompt_cache = PromptCache(options.clock)
        self.stored: OrderedDict[str, Stored] = OrderedDict()
        self.accepted_keys: frozenset[str] | None = None
        self.organization = Organization()
        self.files: OrderedDict[str, File] = OrderedDict()
        self.batches: OrderedDict[str, Batch] = OrderedDict()

    def models(self) -> list[Model]:
        """The models served today."""
        return served(self.options.today or datetime.datetime.now(datetime.UTC).date().isoformat())

    def store(self, key: str, response: dict[str, Any], turns: list[Turn]) -> None:
        """Keep a response for `previous_response_id` and retrieval; the oldest goes when there are too many."""
        self.stored[response["id"]] = Stored(key, response, turns)
        if len(self.stored) > _MOST_STORED:
            self.stored.popitem(last=False)

    def reset(self) -> None:
        """Back to the state after the start; requests in flight go on."""
        self.faults.active.clear()
        self.limits.reset()
        self.journal.clear()
        self.bill.clear()
        self.prompt_cache.clear()
        self.stored.clear()
        self.accepted_keys = None
        self.organization.reset()
        self.files.clear()
        self.batches.clear()
