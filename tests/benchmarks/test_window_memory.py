"""What a user costs, measured from outside: the resident memory of a process that holds many full windows."""

import os
import subprocess
import sys

from tests.conftest import Report

LONG = os.environ.get("LONG_TESTS") == "1"
USERS = 1_000_000 if LONG else 300_000
LIMIT_BYTES = 1200

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from engine.settings.sections import WindowSettings
from engine.windows.store import Events, WindowStore

def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

users, length, batch = int(sys.argv[1]), 100, 500
before = resident()
store = WindowStore(WindowSettings(length=length, max_users=users))
for start in range(0, users, batch):
    slots = store.slots([f"user-{number:08d}" for number in range(start, start + batch)], np.zeros(batch, np.int32))
    store.append(Events(
        slots=np.repeat(slots, length),
        items=np.tile(np.arange(length, dtype=np.int32), batch),
        times_ms=np.tile(1_700_000_000_000 + 1000 * np.arange(length), batch),
        actions=np.ones(batch * length, np.uint8),
        event_hashes=np.zeros(batch * length, np.uint32),
    ))
assert len(store) == users
print((resident() - before) / users)
"""


def test_a_user_with_a_full_window_and_a_key_costs_little(report: Report) -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM, str(USERS)], capture_output=True, text=True, check=True)
    bytes_per_user = float(run.stdout)
    report(
        f"{bytes_per_user:.0f} bytes per user with {USERS:,} users, L = 100",
        {"users": USERS, "window_length": 100, "bytes_per_user": bytes_per_user},
    )
    # The columns alone are 1000 bytes; whatever else is measured is the price of finding a user by its key.
    assert 1000 < bytes_per_user <= LIMIT_BYTES
