"""Every request on the page on serving is answered as the page says, by a real server."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.settings.sections import ServeSettings
from tests.contracts.documents import ROOT, blocks
from tests.integration.served import Served, serving

PAGE = ROOT / "docs" / "serving.md"
STREAM_ENDED_BY_CURL = 28


def lines() -> list[str]:
    return [line for block in blocks(PAGE, "sh") for line in block.splitlines() if re.search(r"\bcurl\b", line)]


@pytest.fixture(scope="module")
def served(tiny_release: Path) -> Iterator[Served]:
    if not shutil.which("curl"):
        pytest.skip("the page's requests are made with curl, which is not installed")
    with serving(tiny_release) as running:
        running.click(("ann", "i10"), ("ann", "i11"))
        yield running


def test_every_request_of_the_page_is_answered(served: Served) -> None:
    assert len(lines()) >= 17
    script = "set -e\n" + "\n".join(lines())
    script = script.replace("localhost:9180", f"127.0.0.1:{served.server.port}").replace("curl -s", "fetch -s")
    fetch = f'fetch() {{ curl --fail-with-body --max-time 2 "$@" || [ $? = {STREAM_ENDED_BY_CURL} ]; echo; }}\n'
    result = subprocess.run(["bash", "-c", fetch + script], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout[-500:] + result.stderr
    assert '"page":2' in result.stdout
    assert "event: list\ndata: {" in result.stdout


def test_the_page_names_the_port_of_the_settings() -> None:
    assert f"localhost:{ServeSettings().port}/" in PAGE.read_text()
