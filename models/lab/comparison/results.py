"""Results of a comparison on disk: a line of `results.jsonl` for each system and seed, written as soon as it is known.

A line holds the rank of every target, so that a system can be compared target by target with others whose results are
older: two bytes a rank, little-endian, through zlib and base64.
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
_RANK: Final = np.dtype("<i2")


class Results:
    """Results so far, in memory and (where there is a folder) in its `results.jsonl`."""

    def __init__(self, folder: Path | None) -> None:
        """Read the results of an earlier comparison in the folder.

        Raises:
            DataError: the file does not hold results.
        """
        self._path = folder / RESULTS_FILE if folder else None
        self._results: list[dict[str, Any]] = []
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._results = _read(self._path)

    def find(self, name: str, seed: int, terms: dict[str, Any]) -> dict[str, Any] | None:
        """The result of that system with that seed under those terms."""
        key = (name, seed, terms)
        return next((line for line in self._results if (line["system"], line["seed"], line["terms"]) == key), None)

    def add(self, result: dict[str, Any]) -> None:
        """Save a result."""
        self._results.append(result)
        if self._path:
            with self._path.open("a") as file:
                file.write(json.dumps(result) + "\n")


def packed(ranks: Int64) -> str:
    """Ranks [n] as text for a line."""
    return base64.b64encode(zlib.compress(ranks.astype(_RANK).tobytes())).decode()


def unpacked(text: str) -> Int64:
    """[n] ranks from the text of `packed`."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), _RANK).astype(np.int64)


def _read(path: Path) -> list[dict[str, Any]]:
    """Complete lines of the file; a last line that a kill cut short is removed from it."""
    if not path.exists():
        return []
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if len(complete) < len(content):
        path.write_bytes(complete)
    try:
        return [json.loads(line) for line in complete.splitlines()]
    except json.JSONDecodeError as error:
        raise DataError(f"{path} does not hold results: {error}; move it away or give another --out") from error
