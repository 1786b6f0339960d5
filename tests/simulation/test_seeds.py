"""Seeds of the simulated world: every one that ever failed, and a budget of fresh ones for each commit.

A failing seed is the bug report: `python -m tests.simulation --seeds 1 --from SEED` shrinks it and prints its trace.
"""

import subprocess
from pathlib import Path

import pytest

from tests.simulation.judge import run
from tests.simulation.world import script

UNMENDED = ("stray record", "assignment lost", "arrives late", "zombie before", "zombie after")
"""Faults that the engine does not stand yet."""
FRESH = 250
REAL = 10
"""Of these through the whole pipeline, on the release of the demo."""


def first_fresh_seed() -> int:
    """A number that each commit has to itself; 0 outside a checkout."""
    head = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=7", "HEAD"]
    try:
        return int(subprocess.run(head, capture_output=True, check=True, text=True).stdout, 16)
    except (OSError, subprocess.CalledProcessError):
        return 0


@pytest.mark.parametrize("lists", ["mirror", "real"])
def test_fresh_seeds(lists: str) -> None:
    first = first_fresh_seed()
    for seed in range(first, first + (FRESH if lists == "mirror" else REAL)):
        try:
            run(script(seed, lists=lists, without=UNMENDED))
        except Exception as error:
            error.add_note(f"python -m tests.simulation --lists {lists} --seeds 1 --from {seed}")
            raise


def test_a_seed_gives_the_same_run_each_time() -> None:
    for seed in range(5):
        chosen = script(seed, without=UNMENDED)
        assert run(chosen).trace == run(chosen).trace
