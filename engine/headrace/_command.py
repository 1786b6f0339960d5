"""The command `headrace` before anything of the engine is imported: are its packages Headrace's own?

Their names (`engine`, `models`, `producers`) are common ones, and Python imports the first package of a name that it
meets on its path. This module imports nothing but the standard library, so that it can say which one that was.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_FAILED: Final = 2


def main() -> None:
    """Run the command line, each of its packages looked at before it is imported."""
    _refuse_hidden("engine.cli.main")
    from engine.cli.main import main as run  # noqa: PLC0415 - only once it is known to be Headrace's

    run(_refuse_hidden)


def explain_hidden(module: str) -> str | None:
    """A sentence on the package that hides Headrace's own, None where none does.

    Args:
        module: dotted name of one of Headrace's modules; nothing is imported to look for it.
    """
    package, *inside = module.split(".")
    spec = find_spec(package)
    if spec is None:
        return None  # not installed: the import says so itself
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if any(_holds(folder, inside) for folder in folders):
        return None
    file = Path(spec.origin) if spec.origin else folders[0]
    return (
        f"{file} hides Headrace's own package {package!r}, which has {'/'.join(inside)}; take"
        f" {_path_entry(file, package)} off PYTHONPATH and out of the working folder, or rename the other package"
    )


def _holds(folder: Path, inside: list[str]) -> bool:
    path = folder.joinpath(*inside)
    return path.with_suffix(".py").is_file() or path.is_dir()


def _path_entry(file: Path, package: str) -> Path:
    """The folder of Python's path in which `package` is."""
    return next(folder.parent for folder in (file, *file.parents) if folder.stem == package)


def _refuse_hidden(module: str) -> None:
    if reason := explain_hidden(module):
        sys.stderr.write(f"headrace: {reason}\n")
        sys.exit(_FAILED)
