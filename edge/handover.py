"""The place between two threads where one item, or a few, wait."""

from collections import deque
from threading import Condition
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Closed(Exception):  # noqa: N818 (an end, not a fault)
    """Nothing more goes through this hand-over."""


class Handover(Generic[Item]):
    """A bounded hand-over of items from one thread to another.

    capacity: how many may wait. replace: a full hand-over gives up its oldest item for the new one, so that `put` never waits;
    without it `put` waits for room. Raises ValueError for a capacity below 1.
    """

    def __init__(self, capacity: int = 1, *, replace: bool = True) -> None:
        if capacity < 1:
            raise ValueError(f"a hand-over holds one item or more, not {capacity}")
        self._capacity = capacity
        self._replace = replace
        self._waiting: deque[Item] = deque()
        self._changed = Condition()
        self._closed = False

    def put(self, item: Item) -> Item | None:
        """Hand an item over; returns the item that gave way to it. Raises Closed, also while it waits for room."""
        with self._changed:
            while not self._replace and len(self._waiting) == self._capacity and not self._closed:
                self._changed.wait()
            if self._closed:
                raise Closed
            replaced = self._waiting.popleft() if len(self._waiting) == self._capacity else None
            self._waiting.append(item)
            self._changed.notify_all()
            return replaced

    def get(self, timeout_s: float | None = None) -> Item:
        """Take the oldest item, waiting for one. Raises Closed once it is closed and empty, TimeoutError after `timeout_s`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting or self._closed, timeout_s):
                raise TimeoutError
            if not self._waiting:
                raise Closed
            item = self._waiting.popleft()
            self._changed.notify_all()
            return item

    def close(self, *, discard: bool = False) -> list[Item]:
        """Take no more items; what waits can still be taken, unless `discard`, which returns it instead."""
        with self._changed:
            self._closed = True
            left = list(self._waiting) if discard else []
            if discard:
                self._waiting.clear()
            self._changed.notify_all()
            return left

    def __len__(self) -> int:
        with self._changed:
            return len(self._waiting)
