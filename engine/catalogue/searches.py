"""Searches: events whose item is the words that a user searched for.

Windows hold a search like an item, by an id made of its words, which the changelog and snapshots hold too. The id
begins with a character that no item's id may begin with, so that neither is taken for the other. Case, width,
punctuation and space of the words do not matter: "Red Shoes" and "red  shoes" are the same search.
"""

from typing import Final

from engine.catalogue.content import Item, words

MARK: Final = "\x1f"
"""First character of a search's id: ASCII's unit separator, which no text of words has."""


def id_of(text: str) -> str:
    """The id of a search for a text; the mark alone for a text without words."""
    return MARK + " ".join(words(text))


def is_search(item: str) -> bool:
    """True for the id of a search."""
    return item.startswith(MARK)


def as_item(search: str) -> Item:
    """A search as an item whose title is its words, from its id."""
    return Item(id=search, title=words_of(search))


def words_of(search: str) -> str:
    """The words of a search, from its id."""
    return search[len(MARK) :]
