"""Simulated clicks as a folder of recorded interactions, for training and for replay.

The folder gets `interactions.csv.gz` (user,item,ts,weight,event and, where shoppers search, query; ts in Unix seconds)
and `items.csv` (item,item_raw,category,n_events).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyarrow import csv

from engine.arrays import Int64
from engine.errors import DataError
from engine.settings.sections import ClickSettings
from producers.simulation.shoppers import ClickBatch, Simulation
from producers.simulation.simulated_catalogue import SimulatedCatalogue
from producers.simulation.stream import events

CHUNK_CLICKS: Final = 20_000

_INTERACTIONS, _ITEMS = "interactions.csv.gz", "items.csv"


def record(simulation: Simulation, folder: Path, clicks: int) -> Iterator[ClickBatch]:
    """Write the simulation's next `clicks` clicks into `folder`; yields them chunk by chunk.

    Raises:
        DataError: the folder cannot be written, or holds interactions already.
    """
    path = folder / _INTERACTIONS
    if path.exists():
        raise DataError(f"{path} exists already; name another folder, or remove the file")
    partial = folder / f".{_INTERACTIONS}"  # renamed when it is complete
    counts = np.zeros(len(simulation.catalogue), np.int64)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with pa.CompressedOutputStream(str(partial), "gzip") as stream:
            for start in range(0, clicks, CHUNK_CLICKS):
                batch = simulation.advance(min(CHUNK_CLICKS, clicks - start))
                _append(stream, _interactions(simulation, batch), header=start == 0)
                counts += np.bincount(batch.items, minlength=len(counts))
                yield batch
        with pa.OSFile(str(folder / _ITEMS), "wb") as stream:
            _append(stream, _items(simulation.catalogue, counts), header=True)
        partial.rename(path)
    except OSError as error:
        raise DataError(f"folder {folder} cannot be written: {error}") from error


def _append(stream: pa.NativeFile, table: pa.Table, *, header: bool) -> None:
    if header:  # not pyarrow's, which quotes every name
        stream.write((",".join(table.column_names) + "\n").encode())
    csv.write_csv(table, stream, csv.WriteOptions(include_header=False, quoting_style="none"))


def _interactions(simulation: Simulation, batch: ClickBatch) -> pa.Table:
    weights, produced = ClickSettings().actions, events(simulation, batch)
    columns: dict[str, Any] = {
        "user": produced.users,
        "item": pa.array(produced.items, pa.string()),
        "ts": produced.times_ms / 1000.0,
        "weight": [weights[action] for action in produced.actions or []],
        "event": produced.actions,
    }
    if simulation.settings.searches:
        columns["query"] = pa.array(produced.words or [None] * len(produced), pa.string())
    return pa.table(columns)


def _items(catalogue: SimulatedCatalogue, counts: Int64) -> pa.Table:
    ids = pa.array(catalogue.ids)
    return pa.table({"item": ids, "item_raw": ids, "category": pa.array(catalogue.categories), "n_events": counts})
