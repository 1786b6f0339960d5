"""Bounds on the size and shape of the source, and the script that measures them on a checkout made by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.structure import Structure, measure, read

ROOT = Path(__file__).parents[2]

MOST_COME_BY_NAMES_PER_1000_LINES = 1.0
"""The present state, to be lowered whenever such names are replaced; never raised."""


@pytest.fixture(scope="module")
def source() -> Structure:
    return measure(ROOT, read(ROOT))


@pytest.mark.parametrize(("package", "most"), [("engine", 20), ("models", 10)])
def test_few_entries_at_the_root_of_a_package(package: str, most: int) -> None:
    assert measure(ROOT, read(ROOT, [package])).root_entries <= most


def test_no_modules_import_one_another(source: Structure) -> None:
    assert source.cycles == []


def test_a_class_or_module_name_is_defined_once(source: Structure) -> None:
    assert source.classes_twice == []
    assert source.modules_twice == []


def test_no_function_is_longer_than_a_screen(source: Structure) -> None:
    assert source.body_lines.max <= 50, source.body_lines.where


def test_every_public_function_is_annotated(source: Structure) -> None:
    assert source.annotated_share == 1


def test_few_variables_are_named_by_how_they_were_come_by(source: Structure) -> None:
    assert source.come_by_per_1000_lines <= MOST_COME_BY_NAMES_PER_1000_LINES, "\n".join(source.come_by_names)


CHECKOUT = {
    "engine/__init__.py": "",
    "engine/py.typed": "",
    "engine/near.py": "from engine.far import inner\n\n\nclass Twice: ...\n",
    "engine/far/__init__.py": "from .inner import depth\n",
    "engine/far/inner.py": "def depth(): \n    '''Ten.'''\n    import engine.near\n    found = 10\n    return found\n",
    "engine/far/kafka/log.py": "from ... import near\n",
    "engine/far/memory/log.py": "",
    "engine/cli/log.py": "def show(self, a: int, *rest: int, b: int, **more: int) -> None: ...\n",
    "models/log.py": "class Twice:\n    one: int = 1\n\n\nsquares = [one * one for one in range(3)]\n",
}


def test_the_script_on_a_checkout_made_by_hand(tmp_path: Path) -> None:
    for name, text in CHECKOUT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    structure = measure(tmp_path, read(tmp_path))
    assert structure.root_entries == 3  # near.py, far/ and cli/
    assert structure.arrows == ["engine.far -> engine.near", "engine.near -> engine.far"]
    assert structure.cycles == ["engine.far.inner -> engine.near -> engine.far.inner"]
    assert structure.classes_twice == ["Twice: engine.near, models.log"]
    assert structure.modules_twice == ["log: engine.far.kafka.log, models.log"]
    assert (structure.body_lines.max, structure.body_lines.where) == (3, "engine.far.inner:1 depth")
    assert (structure.parameters.max, structure.parameters.where) == (4, "engine.cli.log:1 show")
    assert structure.annotated_share == 1 / 2
    assert structure.come_by_names == ["engine.far.inner:4 found", "models.log:5 one"]
    assert structure.lines == 17


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_script_prints_its_figures(options: list[str]) -> None:
    command = [sys.executable, "-m", "tests.contracts.structure", *options]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    if options:
        assert json.loads(output)["all"]["cycles"] == []
    assert "come_by_per_1000_lines" in output if options else "come-by names per 1,000 lines" in output
