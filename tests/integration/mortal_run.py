"""`headrace run`, but it kills itself (SIGKILL) before or after the n-th call of a step of a commit.

    python -m tests.integration.mortal_run before AtLeastOnceSession.send 7

Meant to be run by `test_crash.py`.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from engine.cli.main import main
from engine.eventlog.kafka import output, session


def mortal(method: Callable[..., Any], when: str, calls: int) -> Callable[..., Any]:
    """The same method, deadly at its `calls`-th call."""
    left = iter(range(calls - 1, -1, -1))

    def called(*args: Any, **options: Any) -> Any:
        last = next(left) == 0
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = method(*args, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return called


if __name__ == "__main__":
    when, step, calls = sys.argv[1:]
    owner, name = step.split(".")
    kind = getattr(output, owner, None) or getattr(session, owner)
    setattr(kind, name, mortal(getattr(kind, name), when, int(calls)))
    sys.argv = ["headrace", "run"]
    main()
