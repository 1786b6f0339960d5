"""Every Python block of docs/python.md runs, in order, and prints what the page shows."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import headrace
from producers.demo.bundled import DEMO_RELEASE

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


def test_its_blocks_run_and_print_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(DEMO_RELEASE, tmp_path / "releases" / "two-hop-1")
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text()
    names: dict[str, Any] = {}
    blocks = list(BLOCK.finditer(page))
    assert len(blocks) == page.count("```python") > 8
    assert sum(block[2] is not None for block in blocks) == page.count("```text")
    for block in blocks:
        lines_before = page[: block.start(1)].count("\n")
        exec(compile("\n" * lines_before + block[1], PAGE, "exec"), names)  # noqa: S102 - the page is ours
        assert capsys.readouterr().out == (block[2] or ""), f"block at line {lines_before + 1}"


def test_it_names_every_error_and_nothing_that_is_not_exported() -> None:
    page = PAGE.read_text()
    assert {name for name in headrace.__all__ if name.endswith("Error")} <= {*re.findall(r"`(\w+Error)`", page)}
    assert {*re.findall(r"headrace\.([A-Za-z_]\w*)", page)} - {"toml"} <= {*headrace.__all__, "__all__"}
