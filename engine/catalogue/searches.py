"""Searches: events whose item is the words that a user looked for.

A search stands in windows as an item does, under an id made of its words, as the changelog and snapshots spell it. The
id begins with a character that no item's id may begin with, so that the two are never mistaken for one another. Words
are without regard to case, width, punctuation and space: "Red Shoes" and "red  shoes" are the same search.
"""

from typing import Final

from engine.catalogue.content import Item, words

MARK: Final = "\x1f"
"""ASCII's unit separator: what writes words writes no such thing."""


def id_of(text: str) -> str:
    """The id of a search for this text; it is the mark alone where the text has no words."""
    return MARK + " ".join(words(text))


def is_search(item: str) -> bool:
    """Whether this is the id of a search."""
    return item.startswith(MARK)


def as_item(search: str) -> Item:
    """What is known of a search, from its id: its words stand where an item has its title."""
    return Item(id=search, title=words_of(search))


def words_of(search: str) -> str:
    """The words of a search, from its id."""
    return search[len(MARK) :]
