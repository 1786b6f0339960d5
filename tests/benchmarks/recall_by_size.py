"""Recall of HNSW searches in catalogues larger than the recorded ones: a release's vectors, repeated with noise.

    python -m tests.benchmarks.recall_by_size RELEASE 20000 100000 300000

The noise of a copy is 0.3 times the length of a vector, so that copies of an item are near one another as items of a
kind are. Queries are the interests by which a worker measures recall when it warms a release, and the search is as deep
as it would take (`index.target_recall`). Times are CPU time, of one thread.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from engine.arrays import Float32
from engine.catalogue.ids import Catalogue
from engine.releases import bundles, serving
from engine.retrieval.index import RECALL_AT, ExactIndex, HnswIndex, recall_of
from engine.settings.sections import IndexSettings

_NOISE = 0.3
_TURNS = 3


def enlarged(vectors: Float32, size: int) -> Float32:
    """[size, D] copies of vectors [V, D], each with its own noise."""
    copies = np.resize(vectors, (size, vectors.shape[1]))
    length = np.linalg.norm(vectors, axis=1).mean() / np.sqrt(vectors.shape[1])
    noise = np.random.default_rng(0).normal(0.0, _NOISE * length, copies.shape)
    return (copies + noise).astype(np.float32)


def measure(vectors: Float32, queries: Float32, settings: IndexSettings) -> dict[str, float]:
    """Recall at the settings' depth and at the one that reaches their target, and what a search costs there."""
    began_s = time.process_time()
    index, exact = HnswIndex(vectors, settings, threads=1), ExactIndex(vectors)
    build_s = time.process_time() - began_s
    nearest, _ = exact.search(queries, RECALL_AT)
    return {
        "items": len(vectors),
        "recall_at_ef_search": recall_of(index.search(queries, RECALL_AT)[0], nearest),
        "recall": index.reach_recall(queries, settings.target_recall),
        "depth": index._ef_search,
        "query_us": _query_us(lambda: index.search(queries, RECALL_AT), len(queries)),
        "exact_query_us": _query_us(lambda: exact.search(queries, RECALL_AT), len(queries)),
        "build_s": build_s,
    }


def _query_us(search: Callable[[], object], queries: int) -> float:
    times_s = []
    for _ in range(_TURNS):
        began_s = time.process_time()
        search()
        times_s.append(time.process_time() - began_s)
    return 1e6 * float(np.median(times_s)) / queries


@click.command()
@click.argument("release", type=click.Path(path_type=Path, exists=True))
@click.argument("sizes", type=int, nargs=-1, required=True)
def main(release: Path, sizes: tuple[int, ...]) -> None:
    """Measure RELEASE's vectors enlarged to SIZES items."""
    settings = IndexSettings()
    live = serving.warm(bundles.read(release), Catalogue(), settings, threads=1)
    queries = serving._sample_interests(live)
    for size in sizes:
        figures = measure(enlarged(live.vectors, size), queries, settings)
        click.echo(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
