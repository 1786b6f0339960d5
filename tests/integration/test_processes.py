"""Two processes under torchrun train one encoder: both end with the same weights, better than the first ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import only_long

pytest.importorskip("torch", reason="training needs torch: pip install 'headrace[train]'")

ROOT = Path(__file__).parents[2]
SMALL = ["--dimensions", "8", "--interests", "2", "--heads", "2", "--window-length", "10", "--batch-sequences", "16"]


def torchrun(data: Path, folder: Path, *options: str) -> list[dict[str, object]]:
    """The records of both processes, by rank."""
    folder.mkdir()
    arguments = ["--data", str(data), "--out", str(folder), "--version", "1", *SMALL, "--learning-rate", "5e-3"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *(str(Path(__file__).with_name("one_of_two.py")), str(folder), *arguments, *options),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert str(folder / "two-hop-1") in done.stdout.splitlines()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_learn_and_end_with_the_same_weights(tiny_interactions: Path, tmp_path: Path) -> None:
    """The item table's gradient is sparse, with rows from both processes; all others are dense."""
    limits = ["--epochs", "20", "--full-softmax-up-to", "0", "--negatives", "40", "--checkpoint-s", "0"]
    limits += ["--spectral-start", "false"]  # which knows the rings before the first step
    first, second = torchrun(tiny_interactions, tmp_path / "out", *limits)
    assert first["weights"] == second["weights"]
    ndcg = first["ndcg"]
    assert isinstance(ndcg, list)
    assert max(ndcg) > 1.5 * ndcg[0]
    assert second["ndcg"] == []  # rank 0 validates


@only_long
def test_rank_zero_stops_both_when_the_time_is_up(tiny_interactions: Path, tmp_path: Path) -> None:
    first, second = torchrun(tiny_interactions, tmp_path / "out", "--minutes", "0.02", "--patience", "100000")
    assert first["weights"] == second["weights"]
