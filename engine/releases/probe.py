"""A trial load of a release bundle in a child process, within limits of time and memory.

A bundle with right checksums may still hold a graph that never ends, tables that do not fit into memory, or bytes on
which a library crashes. In a child process none of that stops the worker, or keeps it from ending on SIGTERM.

The child reads and verifies the bundle, makes its graphs' sessions and tables and runs them once, as the worker will;
only the index is left out, which depends on the vectors alone.
"""

import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

from engine import errors
from engine.catalogue.ids import Catalogue
from engine.errors import ReleaseError, UnfitReleaseError
from engine.releases import bundles, serving, signing
from engine.settings.sections import IndexSettings, ReleaseSettings

_POLL_S: Final = 0.05
_GIB: Final = 1 << 30


def check(folder: Path, settings: ReleaseSettings, stop: threading.Event) -> None:
    """Load the bundle in `folder` and run its graphs once, in a child process.

    Args:
        folder: the bundle.
        settings: `load_timeout_s` and `load_memory_gib` bound the child.
        stop: ends the child, and this call with a ReleaseError, when it is set.

    Raises:
        ReleaseError: the bundle cannot be used, or the child came to a limit.
        MissingExtraError: a signature is required, and the extra `signing` is not installed.
    """
    signing.check(folder, settings)
    command = [sys.executable, "-m", __name__, str(folder), str(settings.load_memory_gib)]
    with subprocess.Popen(  # noqa: S603 - this interpreter, on this module
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        try:
            _wait(child, f"release {folder}", settings, stop)
        finally:
            child.kill()
        answer = child.stdout.read() if child.stdout else ""
    _raise_refusal(answer, child.returncode, f"release {folder}")


def _wait(child: subprocess.Popen[str], name: str, settings: ReleaseSettings, stop: threading.Event) -> None:
    deadline_s = time.monotonic() + settings.load_timeout_s
    while child.poll() is None:
        if time.monotonic() > deadline_s:
            raise UnfitReleaseError(
                f"{name}: loading it and running its graphs once takes more than {settings.load_timeout_s:g} s"
                " (releases.load_timeout_s); raise the limit, or export smaller graphs"
            )
        if stop.wait(_POLL_S):
            raise ReleaseError(f"{name}: not loaded, because the worker ends")


def _raise_refusal(answer: str, exit_code: int, name: str) -> None:
    if not answer:
        raise UnfitReleaseError(
            f"{name}: the process that tried it ended with code {exit_code}, a crash or more memory than"
            " releases.load_memory_gib; export the release again, or raise the limit"
        )
    refusal = json.loads(answer)
    if refusal["error"]:
        raise getattr(errors, refusal["error"])(refusal["message"])


def _main(folder: Path, memory_gib: float) -> None:
    """The child: one line of JSON on standard output says what is wrong."""
    limit = round(memory_gib * _GIB)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    refusal = {"error": "", "message": ""}
    try:
        serving.warm(bundles.read(folder), Catalogue(), IndexSettings(kind="exact"), threads=1)
    except ReleaseError as error:
        refusal = {"error": type(error).__name__, "message": str(error)}
    except Exception as error:  # noqa: BLE001 - anything at all that a bundle may cause is a reason to refuse it
        refusal = {"error": "UnfitReleaseError", "message": f"release {folder}: {type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(refusal))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), float(sys.argv[2]))
