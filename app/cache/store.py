"""The tier that all replicas share: an answer, or the claim of the one replica that is asking for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.cache.entry import MAX_BODY_BYTES, Entry, decode, encode
from app.cache.scripts import CLAIM, FOLLOW, INBOX_SECONDS, KEEP, PUBLISH, RELEASE, TAKE_OVER, TELL, inbox
from app.valkey.client import Asked, ValkeyAwayError

if TYPE_CHECKING:
    from app.cache.place import Place
    from app.valkey.client import Valkey

BORROWED_MILLISECONDS = 5_000
"""How long an answer that is not kept stays for the replicas that already wait for it."""


@dataclass(slots=True)
class Claim:
    """What Valkey says about a question: it has the answer, another replica asks, or this one may."""

    entry: Entry | None = None
    token: str = ""
    """Of the one that asks; this replica's own when it is the one."""
    owner: str = ""
    fingerprint: str = ""
    text: bytes = b""
    """What is new of the stream that is followed."""
    over: bool = False
    """The one that was followed has ended without an answer for others."""


class Store:
    """Every method but `keep` is one round trip, bounded by the client, and raises ValkeyAwayError."""

    def __init__(self, valkey: Valkey, replica: str) -> None:
        self._valkey = valkey
        self._replica = replica

    async def claim(self, place: Place, token: str, milliseconds: int, *, anew: bool = False) -> Claim:
        """The answer, or who asks for it, or the right to ask; `anew` asks although there is an answer."""
        return await self.claimed(place, token, self.ask(place, token, milliseconds, anew=anew))

    def ask(self, place: Place, token: str, milliseconds: int, *, anew: bool = False) -> Asked:
        """The first half of `claim`, for who has other work to do before it waits."""
        arguments = (token, self._replica, milliseconds, place.fingerprint, int(anew))
        return self._valkey.ask(CLAIM.command(_keys(place), *arguments), ahead=True)

    async def claimed(self, place: Place, token: str, asked: Asked) -> Claim:
        """The second half of `claim`."""
        answer = await self._valkey.answer(asked)
        if answer[0] == b"answer":
            entry = decode(place.key, answer[1])
            if entry is not None:
                return Claim(entry, fingerprint=answer[2].decode())
            # Damaged, or put there by somebody else: as good as nothing.
            await self._valkey.call("DEL", place.key)
            answer = await self._valkey.answer(self._valkey.ask(asked[0]))
            if answer[0] == b"answer":
                raise ValkeyAwayError("a damaged answer came back")
        if answer[0] == b"busy":
            return Claim(token=answer[1].decode(), owner=answer[2].decode(), fingerprint=answer[3].decode())
        return Claim(token=token, owner=self._replica, fingerprint=place.fingerprint)

    async def take_over(self, place: Place, dead: str, token: str, milliseconds: int) -> bool:
        """Ask in the place of a dead replica; False when another one does already."""
        answer = await TAKE_OVER.call(self._valkey, _both(place), dead, token, self._replica, milliseconds)
        return bool(answer == 1)

    async def follow(self, place: Place, token: str, read: int) -> Claim:
        """What came of the claim `token`, or who has it now; with the text after the first `read` bytes."""
        answer = await FOLLOW.call(self._valkey, _both(place), token, read)
        what = answer[0]
        if what == b"answer":
            entry = decode(place.key, answer[1])
            return Claim(entry, over=entry is None)
        if what == b"wait":
            return Claim(token=token, text=answer[1])
        if what == b"busy":
            return Claim(token=answer[1].decode(), owner=answer[2].decode())
        borrowed = decode(place.key, answer[1]) if what == b"over" and answer[1] else None
        return Claim(borrowed, over=True)

    def keep(self, place: Place, token: str, entry: Entry) -> None:
        """Store an answer and end the claim, waiting for nothing; not when another replica has the claim by now."""
        if len(entry.body) > MAX_BODY_BYTES:
            RELEASE.post(self._valkey, _both(place), token, b"", BORROWED_MILLISECONDS)
            return
        milliseconds = int(1000 * (entry.fresh_seconds + entry.stale_seconds + entry.spare_seconds))
        value = encode(place.key, entry)
        KEEP.post(self._valkey, _keys(place), token, value, max(1, milliseconds), place.fingerprint)

    async def release(self, place: Place, token: str, borrowed: Entry | None) -> None:
        """End the claim without an answer to keep; those who wait get `borrowed`, or ask themselves."""
        value = encode(place.key, borrowed) if borrowed and len(borrowed.body) <= MAX_BODY_BYTES else b""
        await RELEASE.call(self._valkey, _both(place), token, value, BORROWED_MILLISECONDS)

    async def publish(self, place_key: str, token: str, text: bytes) -> bool:
        """Add to the text of a stream for those who follow it; False when the claim is lost."""
        keys = (place_key, place_key + TEXT)
        return bool(await PUBLISH.call(self._valkey, keys, token, text, INBOX_SECONDS * 1000) != -1)

    async def tell(self, owner: str, key: str, token: str) -> None:
        """Tell the replica that asks that this one hears its stream."""
        await TELL.call(self._valkey, (inbox(owner),), key, token)


TEXT = ":text"


def _keys(place: Place) -> tuple[str, ...]:
    """A whole answer has no text that grows."""
    return _both(place) if place.stream else (place.key,)


def _both(place: Place) -> tuple[str, str]:
    return place.key, place.key + TEXT
