"""Size and shape of the source, by package, read from its syntax trees without importing anything.

    python -m tests.contracts.structure [--json] [--root CHECKOUT]

With `--root` another checkout is measured by the same script, so that before and after can be compared.
"""

import argparse
import ast
import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

TOPS: Final = ("engine", "producers", "models")

COME_BY_NAMES: Final = frozenset(
    {"asked", "chosen", "drawn", "found", "given", "gone", "got", "heard", "made", "met", "mine", "ours", "said"}
    | {"taken", "theirs", "told", "tried", "wanted"}
)
"""Names that say how a value was come by, and not what it holds; a leading underscore does not hide one."""

COME_BY_LOOP_NAMES: Final = frozenset({"one", "each", "some"})
"""Counted as the variable of a loop or comprehension alone: they say that there are several, and not of what."""

LOOPS: Final = (ast.For, ast.AsyncFor, ast.comprehension)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One file, parsed."""

    name: str
    """Dotted, the package's own name for an `__init__.py`."""
    path: Path
    tree: ast.Module
    lines: int

    @property
    def is_package(self) -> bool:
        """True of an `__init__.py`."""
        return self.path.name == "__init__.py"

    @property
    def unit(self) -> str:
        """The package at the second level, or the module at the root of the first, that this belongs to."""
        return ".".join(self.name.split(".")[:2])

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node of the tree."""
        return list(ast.walk(self.tree))

    @property
    def functions(self) -> list[Function]:
        """Functions and methods, nested ones too."""
        return [node for node in self.nodes if isinstance(node, Function)]

    @property
    def classes(self) -> list[ast.ClassDef]:
        """Classes, nested and private ones too."""
        return [node for node in self.nodes if isinstance(node, ast.ClassDef)]


@dataclass(frozen=True)
class Spread:
    """Median, ninth decile and maximum of some counts, and where the maximum is."""

    median: float
    p90: float
    max: int
    where: str

    @classmethod
    def of(cls, counts: dict[str, int]) -> "Spread":
        """The spread of counts by place."""
        values = sorted(counts.values())
        largest = max(counts, key=lambda place: counts[place])
        return cls(statistics.median(values), values[int(0.9 * (len(values) - 1))], counts[largest], largest)


@dataclass(frozen=True)
class Structure:
    """The figures of one package, or of all together."""

    root_entries: int
    """Files and folders at the root of the package; of all together, of the package with most."""
    arrows: list[str]
    """`a -> b`: a package at the second level imports from another."""
    cycles: list[str]
    """Modules that import one another, directly or in a ring."""
    file_lines: Spread
    body_lines: Spread
    """Of function bodies, without their docstrings."""
    parameters: Spread
    """Of functions, without `self` and `cls`."""
    annotated_share: float
    """Of public functions: those with a type on every parameter and on what they return."""
    classes_twice: list[str]
    modules_twice: list[str]
    """Not counted: verbs in `cli` packages, and the two implementations of one seam in `kafka` and `memory`."""
    come_by_names: list[str]
    """Where variables get a name that says how they were come by."""
    lines: int

    @property
    def come_by_per_1000_lines(self) -> float:
        """Bindings of such names by the size of the source."""
        return 1000 * len(self.come_by_names) / self.lines


def read(root: Path, tops: Iterable[str] = TOPS) -> list[Module]:
    """Every module below the top packages of the checkout at `root`."""
    return [_module(root, path) for top in tops for path in sorted((root / top).rglob("*.py"))]


def measure(root: Path, modules: list[Module]) -> Structure:
    """The figures of some modules of the checkout at `root`."""
    functions = {
        f"{module.name}:{function.lineno} {function.name}": function
        for module in modules
        for function in module.functions
    }
    return Structure(
        root_entries=max(_root_entries(root / top) for top in {module.name.split(".")[0] for module in modules}),
        arrows=_arrows(modules),
        cycles=_cycles(modules),
        file_lines=Spread.of({module.name: module.lines for module in modules}),
        body_lines=Spread.of({place: _body_lines(function) for place, function in functions.items()}),
        parameters=Spread.of({place: len(_parameters(function)) for place, function in functions.items()}),
        annotated_share=statistics.mean(
            _is_annotated(function) for function in functions.values() if _public(function)
        ),
        classes_twice=_twice((each.name, module.name) for module in modules for each in module.classes),
        modules_twice=_twice(_comparable_names(modules)),
        come_by_names=sorted(place for module in modules for place in _come_by_names(module)),
        lines=sum(module.lines for module in modules),
    )


def _module(root: Path, path: Path) -> Module:
    text = path.read_text()
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return Module(".".join(parts), path, ast.parse(text), len(text.splitlines()))


def _root_entries(package: Path) -> int:
    """Counted without what every package has, and without what Python leaves behind."""
    uncounted = {"__init__.py", "py.typed", "__pycache__"}
    return sum(entry.name not in uncounted for entry in package.iterdir())


def _imports(module: Module, names: set[str]) -> set[str]:
    """Modules among `names` that this one imports anywhere, inside functions too."""
    imported: set[str] = set()
    for node in module.nodes:
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(module, node)
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                imported.add(inner if inner in names else origin)
    return (imported & names) - {module.name}


def _origin(module: Module, node: ast.ImportFrom) -> str:
    """The dotted name after `from`, relative ones resolved."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    above = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*above, *filter(None, [node.module])])


def _graph(modules: list[Module]) -> dict[str, set[str]]:
    names = {module.name for module in modules}
    return {module.name: _imports(module, names) for module in modules}


def _arrows(modules: list[Module]) -> list[str]:
    units = {module.name: module.unit for module in modules}
    pairs = {(units[name], units[target]) for name, targets in _graph(modules).items() for target in targets}
    return sorted(f"{source} -> {target}" for source, target in pairs if source != target)


def _cycles(modules: list[Module]) -> list[str]:
    """One ring after another, each cut at one of its modules, until none is left."""
    graph, rings = _graph(modules), []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            ring = error.args[1]
            rings.append(" -> ".join(reversed(ring)))
            graph[ring[1]].discard(ring[0])
        else:
            return rings


def _body_lines(function: Function) -> int:
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(function.body) > 1
    body = function.body[1:] if documented else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def _parameters(function: Function) -> list[ast.arg]:
    found = function.args
    every = [*found.posonlyargs, *found.args, *filter(None, [found.vararg]), *found.kwonlyargs]
    named = [*every, *filter(None, [found.kwarg])]
    return named[1:] if named and named[0].arg in {"self", "cls"} else named


def _public(function: Function) -> bool:
    return not function.name.startswith("_")


def _is_annotated(function: Function) -> bool:
    return function.returns is not None and all(parameter.annotation for parameter in _parameters(function))


def _twice(places: Iterable[tuple[str, str]]) -> list[str]:
    """Names with more than one place, each with its places."""
    by_name: dict[str, list[str]] = {}
    for name, place in places:
        by_name.setdefault(name, []).append(place)
    return sorted(f"{name}: {', '.join(known)}" for name, known in by_name.items() if len(known) > 1)


def _comparable_names(modules: list[Module]) -> Iterator[tuple[str, str]]:
    """Last name and full name of the modules that must differ: a twin is compared with all but its own twin."""
    seams = Counter(re.sub(r"\.(kafka|memory)\.", ".*.", module.name) for module in modules)
    for module in modules:
        *packages, last = module.name.split(".")
        twin = "memory" in packages and seams[re.sub(r"\.memory\.", ".*.", module.name)] > 1
        if not module.is_package and "cli" not in packages and not twin:
            yield last, module.name


def _come_by_names(module: Module) -> Iterator[str]:
    """Where a variable or parameter of the module has such a name."""
    loops = {id(name) for node in module.nodes if isinstance(node, LOOPS) for name in ast.walk(node.target)}
    for node in module.nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name, nameless = node.id, COME_BY_LOOP_NAMES if id(node) in loops else frozenset()
        elif isinstance(node, ast.arg):
            name, nameless = node.arg, frozenset()
        else:
            continue
        if name.lstrip("_") in COME_BY_NAMES | nameless:
            yield f"{module.name}:{node.lineno} {name}"


def _packages(root: Path) -> dict[str, Structure]:
    """The figures of each top package, and of all in one."""
    modules = read(root)
    by_top = {top: [module for module in modules if module.name.split(".")[0] == top] for top in TOPS}
    return {top: measure(root, among) for top, among in (by_top | {"all": modules}).items()}


def _table(structures: dict[str, Structure]) -> str:
    """One column of figures by package."""
    rows = [
        ("", list(structures)),
        *((title, [show(figures) for figures in structures.values()]) for title, show in FIGURES.items()),
    ]
    return "\n".join(f"{title:48}" + "".join(f"{cell:>20}" for cell in cells) for title, cells in rows)


def _spread(figures: Spread) -> str:
    return f"{figures.median:g} / {figures.p90:g} / {figures.max}"


FIGURES: Final[dict[str, Callable[[Structure], str]]] = {
    "lines": lambda figures: f"{figures.lines:,}",
    "entries at the root": lambda figures: str(figures.root_entries),
    "import arrows between packages": lambda figures: str(len(figures.arrows)),
    "import cycles between modules": lambda figures: str(len(figures.cycles)),
    "lines per file, median / 90 % / max": lambda figures: _spread(figures.file_lines),
    "lines per function body, median / 90 % / max": lambda figures: _spread(figures.body_lines),
    "parameters per function, max": lambda figures: str(figures.parameters.max),
    "public functions annotated": lambda figures: f"{figures.annotated_share:.0%}",
    "class names defined twice": lambda figures: str(len(figures.classes_twice)),
    "module names defined twice": lambda figures: str(len(figures.modules_twice)),
    "come-by names per 1,000 lines": lambda figures: f"{figures.come_by_per_1000_lines:.1f}",
}


def _details(figures: Structure) -> str:
    """What is behind the figures that a reader will want to change."""
    lists = {
        "import cycles": figures.cycles,
        "class names defined twice": figures.classes_twice,
        "module names defined twice": figures.modules_twice,
        "largest": [
            f"file {figures.file_lines.where}",
            f"function body {figures.body_lines.where}",
            f"parameters {figures.parameters.where}",
        ],
        "import arrows between packages": figures.arrows,
    }
    return "\n".join(
        f"\n{title}:\n" + "\n".join(f"    {line}" for line in lines) for title, lines in lists.items() if lines
    )


def main() -> None:
    """Print the figures of a checkout, for people or as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.contracts.structure", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--json", action="store_true", help="one object by package, with every place that counts")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2], help="the checkout to measure")
    arguments = parser.parse_args()
    structures = _packages(arguments.root)
    if arguments.json:
        plain = {
            name: asdict(figures) | {"come_by_per_1000_lines": figures.come_by_per_1000_lines}
            for name, figures in structures.items()
        }
        print(json.dumps(plain, indent=1))  # noqa: T201 - a program's output
        return
    print(_table(structures))  # noqa: T201
    print(_details(structures["all"]))  # noqa: T201


if __name__ == "__main__":
    main()
