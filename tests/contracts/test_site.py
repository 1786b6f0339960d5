"""The docs as a site: every page has its place, and every link leads somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_every_page_is_in_the_navigation_once() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^ +- ([\w-]+\.md)$", navigation, re.MULTILINE)) == PAGES


def test_every_page_is_in_llms_txt_once() -> None:
    listed = re.findall(r"^- \[[^\]]+\]\(([\w-]+\.md)\): \S", (ROOT / "docs" / "llms.txt").read_text(), re.MULTILINE)
    assert sorted(listed) == [page for page in PAGES if page != "index.md"]


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs mkdocs: pip install 'headrace[docs]'")
    from mkdocs.commands.build import build  # noqa: PLC0415 - only where it is installed
    from mkdocs.config import load_config  # noqa: PLC0415

    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path))
    build(config)
    for page in PAGES:
        assert (tmp_path / ("index.html" if page == "index.md" else f"{page[:-3]}/index.html")).is_file()
    pages = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")]
    assert not [source for page in pages for source in re.findall(r'(?:src|href)="(https?:[^"]+\.(?:js|css))"', page)]
