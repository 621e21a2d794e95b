"""Values that take long to read and are mostly asked for in a known order: the next ones are read meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["ReadAhead"]

Key = TypeVar("Key")
Value = TypeVar("Value")


class ReadAhead(Generic[Key, Value]):
    """Reads in threads, and keeps the value asked for last and those that come after it.

    Nothing is read ahead of a key that is asked for out of turn. Reading gains where it leaves Python's lock to
    others, as decoding of pictures does. Not for several threads that ask at once.
    """

    def __init__(self, read: Callable[[Key], Value], order: Iterable[Key], ahead: int = 2) -> None:
        """Take what reads the value of a key, the keys in the order they are asked for, and how many to read ahead."""
        self._read, self._keys, self._ahead = read, list(order), ahead
        self._places = {key: place for place, key in enumerate(self._keys)}
        self._reading: dict[int, Future[Value]] = {}
        self._expected = 0
        # Threads start with the first value and end with this object.
        self._threads = ThreadPoolExecutor(max(1, ahead), thread_name_prefix="read_ahead")

    def __getitem__(self, key: Key) -> Value:
        """Return the value of a key.

        Raises: KeyError: if it is none of the keys. What `read` raises; the next time, the value is read anew.
        """
        place = self._places[key]
        if place == self._expected:
            self._read_places(range(place, min(place + 1 + self._ahead, len(self._keys))))
        elif place not in self._reading:
            self._read_places([place])
        self._expected = place + 1
        try:
            return self._reading[place].result()
        except BaseException:
            del self._reading[place]
            raise

    def _read_places(self, places: Iterable[int]) -> None:
        """Start to read what is not read yet, and forget the rest."""
        kept = {place: self._reading.pop(place, None) for place in places}
        for dropped in self._reading.values():
            dropped.cancel()
        self._reading = {
            place: reading or self._threads.submit(self._read, self._keys[place]) for place, reading in kept.items()
        }
