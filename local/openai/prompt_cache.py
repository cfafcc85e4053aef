"""The prompt cache: prefixes of 1,024 tokens or more are read at a discount when seen again, in steps of 128 tokens."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

from local.openai.ask import CHARACTERS_PER_TOKEN, Ask
from local.openai.clock import Clock

MIN_TOKENS = 1024
STEP_TOKENS = 128
_SHORT_SECONDS = 30 * 60.0
_LONG_SECONDS = 12 * 3600.0
_OLDER_MODELS_SECONDS = 10 * 60.0
_MOST_ENTRIES = 50_000


@dataclass(frozen=True, slots=True)
class Cached:
    """Input tokens of one request and how many of them were read from and written to the cache."""

    input_tokens: int
    read_tokens: int = 0
    written_tokens: int = 0
    long: bool = False


@dataclass(slots=True)
class PromptCache:
    """Prefixes seen lately, by key, model and `prompt_cache_key`; the least recently used go first."""

    clock: Clock
    _until: OrderedDict[bytes, float] = field(default_factory=OrderedDict)

    def clear(self) -> None:
        """Forget every prefix."""
        self._until.clear()

    def look(self, key: str, ask: Ask) -> Cached:
        """Match the prompt's longest cached prefix and remember its prefixes.

        Only GPT-5.6 and later bill (and report) what was written.
        """
        tokens = ask.input_tokens
        options = ask.body.get("prompt_cache_options") or {}
        if tokens < MIN_TOKENS or options.get("mode") == "explicit":
            return Cached(tokens)
        long = options.get("ttl") == "12h"
        now = self.clock.now()
        keep = _OLDER_MODELS_SECONDS if not ask.model.writes_cache else (_LONG_SECONDS if long else _SHORT_SECONDS)
        read = 0
        prefixes = self._prefixes(key, ask)
        for length, digest in prefixes:
            if self._until.get(digest, 0.0) > now:
                read = length
            self._until[digest] = now + keep
            self._until.move_to_end(digest)
        while len(self._until) > _MOST_ENTRIES:
            self._until.popitem(last=False)
        written = prefixes[-1][0] - read if ask.model.writes_cache and prefixes else 0
        return Cached(tokens, read, written, long)

    def _prefixes(self, key: str, ask: Ask) -> list[tuple[int, bytes]]:
        """(tokens, digest) of each cacheable prefix, shortest first."""
        prompt = ask.prompt
        scope = f"{key}\n{ask.model.name}\n{ask.body.get('prompt_cache_key')}\n"
        running = hashlib.sha256(scope.encode())
        found = []
        step = STEP_TOKENS * CHARACTERS_PER_TOKEN
        for end in range(step, len(prompt) + 1, step):
            running.update(prompt[end - step : end].encode())
            tokens = end // CHARACTERS_PER_TOKEN
            if tokens >= MIN_TOKENS:
                found.append((tokens, running.digest()))
        return found
