"""Which replica a request goes to: pure, and nothing of Ray in it.

A conversation goes where it went before, unless that replica has much more to do than another. A new one
goes to where its model is and least is to be done; among equals, to the one that has read its system prompt,
and then to the one that a hash of the conversation points to. That hash makes several ingresses agree that
do not talk to each other.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from server.cluster.beginnings import Beginnings

SPILL_REQUESTS = 8
"""So many more requests than elsewhere, and a conversation leaves its prefix behind: a model that answers
8 at once (its slots) makes them wait little, and reading a long conversation again costs more."""

MOST_DIGESTS = 2**16


class Has(IntEnum):
    """Whether a replica has a model. Unknown counts as on its disk: the replica will say."""

    NOT = 0
    ON_DISK = 1
    LOADED = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica that may be asked: ``load`` counts its requests, ``has`` is for the request's model."""

    name: str
    load: int
    has: Has = Has.ON_DISK


class Holders:
    """Remembers which replicas have read what, and forgets first what nobody has asked for the longest.

    Bounded: ``most`` digests. What a replica has itself forgotten is not known here; then a conversation
    goes where it could go as well as anywhere.
    """

    def __init__(self, most: int = MOST_DIGESTS) -> None:
        self._most = most
        self._held: OrderedDict[bytes, tuple[str, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def learn(self, begins: Beginnings, replica: str) -> None:
        """``replica`` reads all of this; it is named before those that have read it earlier."""
        for digest in filter(None, (begins.opening, *begins.turns)):
            self._put(digest, (replica, *(name for name in self.of(digest) if name != replica)))

    def hear(self, roots: Iterable[bytes], replica: str) -> None:
        """``replica`` says that it has these, whoever sent them there. What is known here is not replaced."""
        for root in roots:
            known = self.of(root)
            if replica not in known:
                self._put(root, (*known, replica))

    def keep_only(self, replicas: Collection[str]) -> None:
        """Forget all other replicas: they are gone, and what they had with them."""
        for digest, names in list(self._held.items()):
            left = tuple(name for name in names if name in replicas)
            if left:
                self._held[digest] = left
            else:
                del self._held[digest]

    def of(self, digest: bytes) -> tuple[str, ...]:
        """Who has read this, the last one first."""
        return self._held.get(digest, ())

    def _put(self, digest: bytes, names: tuple[str, ...]) -> None:
        self._held[digest] = names
        self._held.move_to_end(digest)
        while len(self._held) > self._most:
            self._held.popitem(last=False)


def order(
    begins: Beginnings, candidates: Sequence[Candidate], holders: Holders, spill: int = SPILL_REQUESTS
) -> list[str]:
    """The names of all ``candidates``, the one to be asked first in front."""
    if not candidates:
        return []
    anew = sorted(candidates, key=lambda one: _rank_of_newcomer(begins, one, holders))
    home = _home(begins, anew, holders)
    anew = _spread(anew, spill)
    if home is not None and home.load - min(one.load for one in _able(candidates)) <= spill:
        anew = [home, *(one for one in anew if one is not home)]
    return [one.name for one in anew]


def _home(begins: Beginnings, candidates: Sequence[Candidate], holders: Holders) -> Candidate | None:
    """Who holds most of the conversation; its system prompt alone makes no home."""
    able = _able(candidates)
    for digest in reversed(begins.turns):
        names = holders.of(digest)
        found = [one for one in able if one.name in names]
        if found:
            return min(found, key=lambda one: (one.load, names.index(one.name)))
    return None


def _able(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Those that have the model; all of them where nobody has it, for then anyone may say so."""
    return [one for one in candidates if one.has is not Has.NOT] or candidates


def _spread(candidates: Sequence[Candidate], spill: int) -> list[Candidate]:
    """A replica that must load the model first comes before one that has it, but far too much to do."""
    first, *rest = candidates
    idle = next((one for one in rest if one.has is not Has.NOT and first.load - one.load > spill), None)
    return [first, *rest] if idle is None else [idle, first, *(one for one in rest if one is not idle)]


def _rank_of_newcomer(
    begins: Beginnings, candidate: Candidate, holders: Holders
) -> tuple[int, int, bool, bytes]:
    knows = begins.opening is not None and candidate.name in holders.of(begins.opening)
    return (-candidate.has, candidate.load, not knows, _distance(begins.root or b"", candidate.name))


def _distance(root: bytes, name: str) -> bytes:
    """Rendezvous hashing: each conversation has its own order, which one replica more hardly changes."""
    return hashlib.blake2b(root + name.encode(), digest_size=8).digest()
