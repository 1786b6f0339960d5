"""Figures of benchmarks as rows of JSON, each with the commit, date, machine and command that it came from."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

_CPU_INFO = Path("/proc/cpuinfo")


def append(path: Path, command: str, figures: Mapping[str, Any]) -> None:
    """Add a row to the file at `path`, which is made where it is missing; one JSON object a line.

    Args:
        path: the file, kept open by nobody: several processes may add to it.
        command: what repeats the figures, as it is typed.
        figures: by name, units in the names.
    """
    row = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "version": version("headrace"),
        "machine": {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()},
        "command": command,
        "figures": dict(figures),
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _commit() -> str | None:
    """The commit of the checkout that this file is in, `-dirty` where something was changed; None outside of one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        for arguments in (["ls-files", "--error-unmatch", Path(__file__).name], ["describe", "--always", "--dirty"]):
            done = subprocess.run([*git, *arguments], check=True, capture_output=True, text=True)  # noqa: S603 - no shell
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    """The processor's name, as the system gives it."""
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
