"""Results of a comparison, kept as they come: a line of `results.jsonl` for each system and seed.

A line holds the place of every target, so that systems can be compared target by target when only one of them is
new: two bytes each, the low one first, through zlib and base64.
"""

import base64
import json
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.arrays import Int64
from engine.errors import DataError

RESULTS_FILE: Final = "results.jsonl"
_PLACE: Final = np.dtype("<i2")


class Results:
    """Results so far, in memory and (where a folder is given) in `results.jsonl`."""

    def __init__(self, folder: Path | None) -> None:
        """Read what an earlier comparison left in the folder.

        Raises:
            DataError: the file holds something else.
        """
        self._path = folder / RESULTS_FILE if folder else None
        self._found: list[dict[str, Any]] = []
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._found = _read(self._path)

    def find(self, name: str, seed: int, terms: dict[str, Any]) -> dict[str, Any] | None:
        """The result of that system with that seed under those terms."""
        wanted = (name, seed, terms)
        matching = (one for one in self._found if (one["system"], one["seed"], one["terms"]) == wanted)
        return next(matching, None)

    def add(self, result: dict[str, Any]) -> None:
        """Keep a result."""
        self._found.append(result)
        if self._path:
            with self._path.open("a") as file:
                file.write(json.dumps(result) + "\n")


def packed(places: Int64) -> str:
    """Places [n] as a line holds them."""
    return base64.b64encode(zlib.compress(places.astype(_PLACE).tobytes())).decode()


def unpacked(text: str) -> Int64:
    """[n] the places that were packed."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), _PLACE).astype(np.int64)


def _read(path: Path) -> list[dict[str, Any]]:
    """Whole lines of the file; one that was cut short by a kill is taken out of it."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is no file of results: {error}; move it away or give another --out") from error
