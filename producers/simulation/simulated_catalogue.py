"""Catalogue of the simulated shop: items, their similarity, and the successors that shoppers go on to.

It follows from a seed and the number of items alone, never from the shoppers: a release trained on the clicks of one
population of shoppers has the items that any other population clicks.

    category -> topics (sub-clusters of a category) -> items, scattered around their topic's centre
    attractiveness   log-normal: a few items are popular, most are not
    successors       per item, the few that shoppers go on to: near it, attractive, and partly random
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.arrays import Float32, Float64, Int32
from engine.errors import SettingsError

CATEGORIES: Final = (
    *("tents", "boots", "ropes", "stoves", "packs", "lamps", "maps", "kayaks", "skis", "bikes"),
    *("books", "games", "puzzles", "guitars", "drums", "paints", "yarns", "clays", "pens", "prints"),
)
TOPICS_PER_CATEGORY: Final = 2
TOPICS: Final = len(CATEGORIES) * TOPICS_PER_CATEGORY
SUCCESSORS: Final = 12
MIN_ITEMS: Final = 20 * len(CATEGORIES)
"""With fewer, a category could have too few items for the successors of each."""

_LATENT_DIMENSIONS = 16
_CATEGORY_SPREAD, _TOPIC_SPREAD, _ITEM_SPREAD = 1.0, 0.6, 0.35
"""Standard deviations of the latent vectors: items of a topic are closer together than topics of a category."""
_KERNEL_WIDTH = 1.5
"""Distance at which similarity is 1/√e: about 1 draw in 15 leaves its topic, nearly always for its sibling."""
_ATTRACTIVENESS_SIGMA = 1.3
_TOPIC_SIGMA = 0.8


@dataclass(frozen=True, slots=True)
class SimulatedCatalogue:
    """V items in T topics."""

    ids: tuple[str, ...]
    """V item ids, 'item-00042'."""
    categories: tuple[str, ...]
    """V category names."""
    topics: Int32
    """[V] topic of each item; topic // TOPICS_PER_CATEGORY is its category."""
    appeal: Float32
    """[T, V] similarity of item and topic times the item's attractiveness; not normalised."""
    attractiveness: Float32
    """[V] above 0, median 1."""
    topic_popularity: Float32
    """[T] share of each topic in the interests of all shoppers; sums to 1."""
    successors: Int32
    """[V, SUCCESSORS] items that shoppers go on to, the likeliest first."""
    launch_order: Float32
    """[V] in 0..1; items with the highest values are launched last."""

    def __len__(self) -> int:
        return len(self.ids)


def make_catalogue(seed: int, items: int) -> SimulatedCatalogue:
    """The catalogue of a seed and a number of items.

    Raises:
        SettingsError: there are fewer than MIN_ITEMS items.
    """
    if items < MIN_ITEMS:
        raise SettingsError(f"items: found {items}, expected {MIN_ITEMS} or more for a simulated catalogue")
    rng = np.random.default_rng([seed, items])
    topics = rng.permutation(np.arange(items) % TOPICS).astype(np.int32)
    centres = _centres(rng)
    latents = centres[topics] + rng.normal(0.0, _ITEM_SPREAD, (items, _LATENT_DIMENSIONS))
    attractiveness = rng.lognormal(0.0, _ATTRACTIVENESS_SIGMA, items)
    topic_popularity = rng.lognormal(0.0, _TOPIC_SIGMA, TOPICS)
    return SimulatedCatalogue(
        ids=tuple(f"item-{number:05d}" for number in range(items)),
        categories=tuple(CATEGORIES[topic // TOPICS_PER_CATEGORY] for topic in topics),
        topics=topics,
        appeal=(_similarity(centres, latents) * attractiveness).astype(np.float32),
        attractiveness=attractiveness.astype(np.float32),
        topic_popularity=(topic_popularity / topic_popularity.sum()).astype(np.float32),
        successors=_successors(rng, topics // TOPICS_PER_CATEGORY, latents, attractiveness),
        launch_order=rng.random(items, dtype=np.float32),
    )


def _centres(rng: np.random.Generator) -> Float64:
    """[T, latent] centres of topics; those of one category are near each other."""
    categories = rng.normal(0.0, _CATEGORY_SPREAD, (len(CATEGORIES), 1, _LATENT_DIMENSIONS))
    offsets = rng.normal(0.0, _TOPIC_SPREAD, (len(CATEGORIES), TOPICS_PER_CATEGORY, _LATENT_DIMENSIONS))
    return (categories + offsets).reshape(TOPICS, _LATENT_DIMENSIONS)


def _similarity(left: Float64, right: Float64) -> Float64:
    """[left, right] Gaussian kernel of the distance between latent vectors, in 0..1."""
    squares = (left**2).sum(1)[:, None] + (right**2).sum(1) - 2.0 * left @ right.T
    kernel: Float64 = np.exp(-np.maximum(squares, 0.0) / (2.0 * _KERNEL_WIDTH**2))
    return kernel


def _successors(rng: np.random.Generator, categories: Int32, latents: Float64, attractiveness: Float64) -> Int32:
    """[V, SUCCESSORS] drawn without replacement, with similarity times root of attractiveness as odds (Gumbel top-k).

    The root keeps popular items from being successors of most others, which popularity alone could then predict.
    """
    successors = np.empty((len(latents), SUCCESSORS), np.int32)
    for category in range(len(CATEGORIES)):
        members = np.flatnonzero(categories == category)
        odds = np.log(_similarity(latents[members], latents[members]) + 1e-12) + 0.5 * np.log(attractiveness[members])
        odds += rng.gumbel(size=odds.shape)
        np.fill_diagonal(odds, -np.inf)
        successors[members] = members[np.argsort(-odds, axis=1)[:, :SUCCESSORS]]
    return successors
