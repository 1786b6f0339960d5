"""`import headrace`: its names, their types, the weight of the import, the wheel, and packages that hide Headrace's."""

import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import headrace
from engine import errors
from headrace import _command

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXPORTS = [
    *("BrokerUnavailableError", "ChangelogError", "DamagedReleaseError", "DataError", "DeliveryError", "EventLog"),
    *("EventLogError", "HeadraceError", "KafkaLog", "ListedItem", "LoginRefusedError"),
    *("MemoryLog", "MessageError"),
    "MissingExtraError",
    *(
        "NewerWindowError",
        "Outgoing",
        "Partition",
        "Producer",
        "Reader",
        "Reason",
        "Rebalance",
        "Recommendation",
        "RecordRefusedError",
        "Records",
        "Release",
    ),
    *(
        "ReleaseError",
        "RequestError",
        "RightMissingError",
        "RunFolderError",
        "Session",
        "Settings",
        "SettingsError",
        "TopicSpec",
    ),
    *("UnfitReleaseError", "UnsupportedClientError", "decode_recommendation", "load_settings", "open_release"),
]
OLDEST_SETUPTOOLS = 77


def python(code: str, *path: Path, cwd: Path, arguments: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, with these folders before all others on its path."""
    inherited = os.environ.get("PYTHONPATH")
    folders = [*map(str, path), *([inherited] if inherited else [])]
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the source, so that the build leaves nothing in the checkout."""
    try:
        setuptools = version("setuptools")
    except PackageNotFoundError:
        setuptools = "0"
    if int(setuptools.split(".")[0]) < OLDEST_SETUPTOOLS:
        pytest.skip(f"the wheel is built by setuptools {OLDEST_SETUPTOOLS} or newer: pip install -e '.[dev]'")
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("engine", "models", "producers"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", f"--wheel-dir={folder}"]
    build = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(source)], capture_output=True, text=True, check=False
    )
    assert build.returncode == 0, build.stdout + build.stderr
    (path,) = folder.glob("headrace-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as pip does it."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_has_the_live_page(installed: Path) -> None:
    page = ROOT / "engine" / "view" / "page"
    names = {path.name for path in page.iterdir()}
    assert {"page.html", "page.js", "page.css"} <= names
    assert {path.name for path in (installed / "engine" / "view" / "page").iterdir()} == names


def test_the_names_are_these() -> None:
    assert headrace.__all__ == EXPORTS
    assert dir(headrace) == sorted([*EXPORTS, "__version__"], key=dir(headrace).index)
    for name in EXPORTS:
        assert getattr(headrace, name).__module__.partition(".")[0] in {"engine", "headrace"}
    with pytest.raises(AttributeError, match="module 'headrace' has no attribute 'open_relaese'"):
        _ = headrace.open_relaese  # type: ignore[attr-defined]


def test_every_error_is_exported() -> None:
    tree = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert tree == {name for name in EXPORTS if name.endswith("Error")}
    assert all(issubclass(getattr(headrace, name), headrace.HeadraceError) for name in tree)


def test_the_version_is_that_of_the_project() -> None:
    assert headrace.__version__ == PROJECT["project"]["version"]


def test_mypy_checks_every_module_of_the_package() -> None:
    """By name: a folder that is imported under another name than its path is left out of the search for modules."""
    modules = {f"headrace.{path.stem}" for path in (ROOT / "engine" / "headrace").glob("_[!_]*.py")}
    assert {*PROJECT["tool"]["mypy"]["modules"]} == modules


HEAVY = ("numpy", "onnxruntime", "hnswlib", "kafka", "pydantic", "pyarrow", "click")
LIGHT_USE = f"""
import sys, headrace
value = b'{{"id": "3-40-m-1", "user": "ann", "release": "m-1", "event_ms": 1, "computed_ms": 2'
value += b', "items": [], "interests": []}}'
assert headrace.decode_recommendation(value).user == "ann"
try:
    headrace.decode_recommendation(b"{{}}")
except headrace.HeadraceError:
    log: headrace.EventLog = headrace.MemoryLog()
print([name for name in {HEAVY} if name in sys.modules])
"""


def test_lists_are_decoded_without_what_made_them(tmp_path: Path) -> None:
    process = python(LIGHT_USE, cwd=tmp_path)
    assert (process.stdout, process.stderr) == ("[]\n", "")


def test_the_wheel_has_the_package_under_its_name_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    source = {path.name for path in (ROOT / "engine" / "headrace").iterdir() if path.is_file()}
    assert {name.removeprefix("headrace/") for name in names if name.startswith("headrace/")} == source
    assert {"__init__.py", "py.typed"} < source
    assert not [name for name in names if name.startswith("engine/headrace")]
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {
        *("engine", "headrace", "models", "producers")
    }
    assert "headrace = headrace._command:main" in entry_points


def test_what_is_installed_works(installed: Path, tmp_path: Path) -> None:
    code = (
        "import engine, headrace, sys; print(headrace.__file__); print(engine.__file__); print(headrace.__version__);"
        "print(len(headrace.open_release(sys.argv[1]).recommend(['item-00042'], count=3).items))"
    )
    process = python(code, installed, cwd=tmp_path, arguments=(str(installed / "producers" / "demo" / "release"),))
    assert process.stderr == ""
    assert process.stdout.splitlines() == [
        str(installed / "headrace" / "__init__.py"),
        str(installed / "engine" / "__init__.py"),
        PROJECT["project"]["version"],
        "3",
    ]


# ruff: noqa: E501 - an answer stays on the line of its question
TYPED = """\
import headrace

release = headrace.open_release("releases/two-hop-1", settings=headrace.load_settings("headrace.toml"))
reveal_type(release)  # Release
reveal_type(headrace.load_settings())  # Settings
recommendation = release.recommend(["x-9"], times_ms=[1], actions=["view"], exclude={"x-1"}, count=3)
reveal_type(recommendation)  # Recommendation
reveal_type(recommendation.items[0])  # ListedItem
reveal_type(recommendation.items[0].score)  # float
reveal_type(recommendation.interests[0][0])  # Reason
reveal_type(release.recommend_many({"ann": ["x-9"]}, diversity=0.5))  # dict[str, Recommendation]
reveal_type(release.similar("x-9"))  # list[tuple[str, float]]
reveal_type(release.unknown(("x-9",)))  # list[str]
reveal_type(headrace.decode_recommendation(b""))  # Recommendation
reveal_type(headrace.__version__)  # str
memory: headrace.EventLog = headrace.MemoryLog()
kafka: headrace.EventLog = headrace.KafkaLog(headrace.Settings().kafka)
reveal_type(memory.reader(["recommendations"]).poll(1.0, 10)[0].values)  # list[bytes | None]
reveal_type(headrace.Outgoing("clicks"))  # Outgoing
release.recommend([7])  # error: List item 0 has incompatible type "int"; expected "str"
release.similar("x-9", cuont=3)  # error: Unexpected keyword argument "cuont" for "similar" of "Release"; did you mean "count"?
headrace.open_relaese("releases/two-hop-1")  # error: Module has no attribute "open_relaese"; maybe "open_release"?
headrace.DataError("x") < headrace.HeadraceError  # error: Unsupported left operand type for < ("DataError")
"""


def test_the_types_are_these(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(TYPED)
    options = (
        "--strict",
        "--config-file=",
        "--no-error-summary",
        "--hide-error-codes",
        f"--cache-dir={tmp_path}/cache",
    )
    code = "from mypy.__main__ import console_entry; console_entry()"
    process = python(code, installed, cwd=tmp_path, arguments=(*options, "typed.py"))
    assert process.stderr == ""
    answers: dict[int, str] = {}
    for line, kind, answer in re.findall(r"^typed\.py:(\d+): (note|error): (.*)$", process.stdout, re.MULTILINE):
        revealed = re.match(r'Revealed type is "(.*)"$', answer)
        plain = re.sub(r"\b\w+(\.\w+)*\.(?=[A-Z])", "", revealed[1] if revealed else f"{kind}: {answer}")
        answers.setdefault(int(line), plain)
    questions = {number: line.partition("  # ")[2] for number, line in enumerate(TYPED.splitlines(), start=1)}
    assert answers == {number: answer for number, answer in questions.items() if answer}


def folder(path: Path) -> Path:
    """An empty folder to run in: Python looks for packages there before anywhere else."""
    return Path(tempfile.mkdtemp(dir=path))


def hiding(folder: Path, package: str, form: str) -> Path:
    """Another package of this name: the file or folder that Python imports for it."""
    if form == "folder":
        (folder / package).mkdir()
        return folder / package
    path = folder / package / "__init__.py" if form == "package" else folder / f"{package}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise RuntimeError('nobody may import this')\n")
    return path


@pytest.mark.parametrize("form", ["package", "module"])
@pytest.mark.parametrize(
    ("package", "verb", "inside"),
    [("models", "train", "cli/train"), ("producers", "demo", "cli/demo"), ("engine", "run", "cli/main")],
)
def test_the_command_names_the_package_that_hides_one_of_headrace(
    installed: Path, tmp_path: Path, package: str, verb: str, inside: str, form: str
) -> None:
    path = hiding(tmp_path, package, form)
    code = "from headrace._command import main; main()"
    process = python(code, tmp_path, installed, cwd=folder(tmp_path), arguments=(verb, "--help"))
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == (
        f"headrace: {path} hides Headrace's own package {package!r}, which has {inside}; take {tmp_path} off PYTHONPATH"
        " and out of the working folder, or rename the other package\n"
    )


def test_a_verb_runs_while_packages_are_hidden_that_it_does_not_need(installed: Path, tmp_path: Path) -> None:
    hiding(tmp_path, "models", "package")
    code = "from headrace._command import main; main()"
    process = python(code, tmp_path, installed, cwd=folder(tmp_path), arguments=("run", "--help"))
    assert (process.returncode, process.stderr) == (0, "")
    assert "Serve: read clicks from Kafka" in process.stdout


def test_the_import_names_the_package_that_hides_one_of_headrace(installed: Path, tmp_path: Path) -> None:
    path = hiding(tmp_path, "engine", "module")
    process = python("import headrace; headrace.HeadraceError", tmp_path, installed, cwd=folder(tmp_path))
    assert process.stderr.splitlines()[-1] == (
        f"ImportError: {path} hides Headrace's own package 'engine', which has errors; take {tmp_path} off PYTHONPATH"
        " and out of the working folder, or rename the other package"
    )


@pytest.mark.parametrize("form", ["package", "module", "folder"])
def test_nothing_is_imported_to_find_what_hides_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    path = hiding(tmp_path, "headrace_twin", form)
    monkeypatch.syspath_prepend(tmp_path)
    reason = _command.explain_hidden("headrace_twin.cli.train") or ""
    assert reason.startswith(
        f"{path} hides Headrace's own package 'headrace_twin', which has cli/train; take {tmp_path} "
    )
    assert _command.explain_hidden("headrace_other.cli.train") is None  # the import itself says that it is missing
    assert _command.explain_hidden("models.cli.train") is None
