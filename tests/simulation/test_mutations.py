"""The simulator is alive: each rule of the engine, broken on purpose, is found by the seed that is named for it."""

from pathlib import Path

import pytest

from tests.simulation.judge import run
from tests.simulation.mutations import MUTATIONS, broken, first_seed
from tests.simulation.world import Failure, script

PAGE = Path(__file__).parents[2] / "docs" / "guarantees.md"
MOST = 300
"""Seeds that are looked through for another one, where the named one finds nothing any more."""


def fails(seed: int) -> bool:
    try:
        run(script(seed))
    except (Failure, RuntimeError, ValueError, LookupError):  # a broken rule may break the engine outright
        return True
    return False


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_rule_is_found(name: str) -> None:
    seed = MUTATIONS[name].seed
    assert not fails(seed), "the seed finds something with no rule broken"
    with broken(name):
        is_found = fails(seed)
    assert is_found, f"{name}: seed {seed} finds nothing any more, {first_seed(name, fails, MOST)} does; name that one"


def test_the_page_names_every_rule_with_its_seed() -> None:
    page = PAGE.read_text()
    for name, mutation in MUTATIONS.items():
        assert f"| {name} | {mutation.seed} |" in page
