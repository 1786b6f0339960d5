"""docs/messages.md says what the messages are, and the bytes of every version that was ever written can be read."""

import importlib
import pkgutil
import re
import textwrap
from pathlib import Path
from typing import get_args

import msgspec
import pytest

import engine.messages
from engine.eventlog.base import Partition
from engine.ingest.dead_letters import DeadLetter, DeadLetterReason
from engine.messages import schema_tables
from engine.messages.announcement import Announcement, ReleasePin
from engine.messages.experiment_messages import Experiment, ExperimentArm
from engine.messages.impression import Impression, ShownItem
from engine.settings.sections import ClickFields
from engine.windows import codec

PAGE = (Path(__file__).parents[2] / "docs" / "messages.md").read_text(encoding="utf-8")

LETTER = DeadLetter(
    key=b"ann",
    value=b"rubbish",
    headers=[("trace", b"1")],
    timestamp_ms=1_600_000_000_000,
    partition=Partition("clicks", 3),
    offset=41,
    reason="unparsable",
    detail="JSON is malformed",
)


def structs() -> list[type[msgspec.Struct]]:
    names = [info.name for info in pkgutil.iter_modules(engine.messages.__path__)]
    modules = [importlib.import_module(f"engine.messages.{name}") for name in names]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == module.__name__
    }
    assert found
    return sorted(found, key=lambda struct: struct.__name__)


def test_the_tables_of_the_page_are_up_to_date() -> None:
    assert schema_tables.rendered(PAGE) == PAGE, "python -m engine.messages.schema_tables docs/messages.md"


@pytest.mark.parametrize("struct", structs())
def test_every_struct_is_on_the_page(struct: type[msgspec.Struct]) -> None:
    assert f"<!-- schema {struct.__module__}:{struct.__name__} -->" in PAGE
    assert schema_tables.table(struct) in PAGE


def test_a_table_says_name_type_default_and_meaning() -> None:
    class Inner(msgspec.Struct):
        """Has no table of its own."""

    source = "engine.messages.recommendation:ListedItem"
    page = schema_tables.rendered(f"before\n\n<!-- schema {source} -->\n\n| old |\n|---|\n\nafter\n")
    assert page.startswith(f"before\n\n<!-- schema {source} -->\n\n| field | type | default | |\n|---|---|---|---|\n")
    assert "| `interest` | integer | `-1` | Index into" in page
    assert page.endswith(" |\n\nafter\n")
    assert "| old |" not in page
    assert schema_tables.table(Inner) == "| field | type | default | |\n|---|---|---|---|"


def test_the_layout_of_a_window_is_that_of_its_codec() -> None:
    layout = re.search(r"little-endian:\n\n```text\n(.*?)```", PAGE, re.DOTALL)
    assert layout
    assert textwrap.indent(layout[1], "    ") in str(codec.__doc__)


def test_the_fields_of_a_click_are_those_of_the_settings() -> None:
    rows = re.findall(r"\| `clicks\.fields\.(\w+)` \| (?:`(.*)`|\(none\)) \|", PAGE)
    assert rows == list(ClickFields().model_dump().items())


def test_the_reasons_and_headers_of_dead_letters_are_all_there() -> None:
    section = PAGE[PAGE.index("## Dead letters") : PAGE.index("## Window")]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(get_args(DeadLetterReason))
    added = dict(LETTER.as_headers()) | dict(withheld().as_headers()) | dict(LETTER.cut_to(100).as_headers())
    assert set(re.findall(r"`(headrace\.\w+)`", section)) == {name for name in added if name.startswith("headrace.")}


def withheld() -> DeadLetter:
    return DeadLetter(b"ann", None, (), 0, Partition("clicks", 0), 0, "mistyped_field", "", withheld=True)


def test_dead_letter_headers_schema_1_golden_bytes() -> None:
    assert LETTER.as_headers() == [
        ("trace", b"1"),
        ("headrace.schema", b"1"),
        ("headrace.reason", b"unparsable"),
        ("headrace.detail", b"JSON is malformed"),
        ("headrace.topic", b"clicks"),
        ("headrace.partition", b"3"),
        ("headrace.offset", b"41"),
        ("headrace.timestamp_ms", b"1600000000000"),
    ]


ANNOUNCEMENT = Announcement(
    model="two-hop",
    version="v1",
    state="live",
    bundle="/releases/two-hop-v1",
    manifest_checksum="abc",
    announced_ms=1000,
    figures={"hr": 0.5},
)


def test_announcement_schema_1_golden_bytes() -> None:
    golden = (
        b'{"schema":1,"model":"two-hop","version":"v1","state":"live","bundle":"/releases/two-hop-v1",'
        b'"manifest_checksum":"abc","announced_ms":1000,"figures":{"hr":0.5}}'
    )
    assert msgspec.json.decode(golden, type=Announcement) == ANNOUNCEMENT
    with_reason = golden.removesuffix(b"}") + b',"reason":"","content":""}'
    assert msgspec.json.encode(ANNOUNCEMENT) == with_reason
    assert msgspec.json.decode(with_reason, type=Announcement) == ANNOUNCEMENT


def test_pin_schema_1_golden_bytes() -> None:
    pin = ReleasePin(model="two-hop", pinned_version="v1", pinned_ms=1000, reason="empty lists")
    golden = b'{"schema":1,"model":"two-hop","pinned_version":"v1","pinned_ms":1000,"reason":"empty lists"}'
    assert msgspec.json.encode(pin) == golden
    assert msgspec.json.decode(golden, type=ReleasePin) == pin
    assert pin.key == b"two-hop@pin"


def test_impression_schema_1_golden_bytes() -> None:
    impression = Impression(
        decision="d",
        user="ann",
        shown_ms=1000,
        received_ms=2000,
        items=[ShownItem("x-1", 1)],
        release="two-hop-v1",
        is_known=True,
    )
    golden = (
        b'{"schema":1,"decision":"d","user":"ann","shown_ms":1000,"received_ms":2000,'
        b'"items":[{"item":"x-1","place":1}],"release":"two-hop-v1","is_known":true}'
    )
    assert msgspec.json.encode(impression) == golden
    assert msgspec.json.decode(golden, type=Impression) == impression


def test_experiment_schema_1_golden_bytes() -> None:
    arms = [ExperimentArm(name="control", share=0.5), ExperimentArm(name="b", share=0.5, settings={"count": 5})]
    experiment = Experiment(
        model="two-hop",
        experiment="e",
        state="running",
        salt="e/7",
        base_version="v1",
        arms=arms,
        started_ms=7,
        announced_ms=7,
    )
    golden = (
        b'{"schema":1,"model":"two-hop","experiment":"e","state":"running","salt":"e/7","base_version":"v1","arms":'
        b'[{"name":"control","share":0.5,"version":"","settings":{}},'
        b'{"name":"b","share":0.5,"version":"","settings":{"count":5}}],"started_ms":7,"announced_ms":7,'
        b'"error":0.05,"difference":0.01,"min_users":200,"reason":""}'
    )
    with_exposure = golden.removesuffix(b"}") + b',"exposure":"lists"}'
    assert msgspec.json.encode(experiment) == with_exposure
    assert msgspec.json.decode(golden, type=Experiment) == experiment
    assert experiment.key == b"two-hop@experiment/e"


def test_readers_ignore_what_they_do_not_know() -> None:
    later = msgspec.json.decode(msgspec.json.encode(ANNOUNCEMENT)) | {"signature": "x", "state": "paused"}
    decoded = msgspec.json.decode(msgspec.json.encode(later), type=Announcement)
    assert decoded == msgspec.structs.replace(ANNOUNCEMENT, state="paused")
