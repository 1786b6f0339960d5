"""The last list that was pushed to each user, word for word."""

from typing import Final

import msgspec

from engine.messages.recommendation import Recommendation, decode_recommendation

NEXT_CLICK_PLACES: Final = 10


class StoredLists:
    """Messages of the topic of lists by user, those that changed longest ago dropped.

    One thread puts, any thread reads.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_user: dict[str, bytes] = {}
        self.is_complete = False
        """All lists from before the start have been read."""

    def __len__(self) -> int:
        return len(self._by_user)

    def put(self, user: str, message: bytes | None) -> None:
        """Keep a user's new list; None deletes it."""
        self._by_user.pop(user, None)  # so that the order is that of the last change
        if message is None:
            return
        self._by_user[user] = message
        if len(self._by_user) > self._most:
            del self._by_user[next(iter(self._by_user))]

    def users(self) -> list[str]:
        """Users whose list is held, the one whose list changed longest ago first."""
        return [*self._by_user]

    def find(self, user: str) -> bytes | None:
        """The message; None where no list is held."""
        return self._by_user.get(user)

    def decode(self, user: str) -> Recommendation | None:
        """The list; None where none is held.

        Raises:
            MessageError: the message is no list.
        """
        message = self.find(user)
        return None if message is None else decode_recommendation(message)


class _ItemId(msgspec.Struct, frozen=True, gc=False):
    item: str


class ListHead(msgspec.Struct, frozen=True, gc=False):
    """The part of a list that figures need; decoded several times faster than the whole."""

    user: str
    release: str
    event_ms: int
    items: list[_ItemId]

    @property
    def first_items(self) -> tuple[str, ...]:
        """The items by which a next click is judged."""
        return tuple(listed.item for listed in self.items[:NEXT_CLICK_PLACES])


head_decoder: Final = msgspec.json.Decoder(ListHead)
