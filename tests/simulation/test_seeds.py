"""Seeds of the simulated world: every one that ever failed, and a budget of fresh ones for each commit.

A failing seed is the bug report: `python -m tests.simulation --seeds 1 --from SEED` shrinks it and prints its trace.
"""

import subprocess
from pathlib import Path

import pytest

from tests.simulation.judge import run
from tests.simulation.world import script

FRESH, REAL = 250, 10
"""Seeds of each commit; the second number through the whole pipeline, on the release of the demo."""
AT_ONCE = 25
"""Seeds of one test, so few that the slowest machine is done in time."""


def first_fresh_seed() -> int:
    """A number that each commit has to itself; 0 outside a checkout."""
    head = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=7", "HEAD"]
    try:
        return int(subprocess.run(head, capture_output=True, check=True, text=True).stdout, 16)
    except (OSError, subprocess.CalledProcessError):
        return 0


FAILED = {
    1: "a stray key that is no UTF-8 stopped its partition for good",
    2: "a stray record that cannot be read stopped its partition",
    80: "at least once: records that arrived late came after the successor's, and clicks were lost",
    165: "a partition whose assignment was lost on its way was read by nobody",
    178: "a stray record in one poll with the good one before it lost the good one",
    476: "an older window in one poll with the newer one before it was not written once more",
    786: "the same, after a crash of the owner",
    2001: "as 178, where the stray record is the last of all",
    2035: "as 178, in a partition without further clicks",
    115299596: "the simulator's own fault: it gave out positions that an open transaction held back",
}
"""Every seed that ever failed, and what it found."""


@pytest.mark.parametrize("seed", FAILED)
def test_seeds_that_failed_once(seed: int) -> None:
    run(script(seed))


@pytest.mark.parametrize("part", range(FRESH // AT_ONCE))
def test_fresh_seeds(part: int) -> None:
    run_all(first_fresh_seed() + part * AT_ONCE, AT_ONCE, "mirror")


def test_fresh_seeds_through_the_whole_pipeline() -> None:
    run_all(first_fresh_seed(), REAL, "real")


def run_all(first: int, count: int, lists: str) -> None:
    for seed in range(first, first + count):
        try:
            run(script(seed, lists=lists))
        except Exception as error:
            error.add_note(f"python -m tests.simulation --lists {lists} --seeds 1 --from {seed}")
            raise


def test_a_seed_gives_the_same_run_each_time() -> None:
    for seed in range(5):
        chosen = script(seed)
        assert run(chosen).trace == run(chosen).trace
