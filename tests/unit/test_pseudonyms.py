"""Pseudonyms: the same for the same id and key, and nothing of the id in them."""

import base64
import hashlib
import json
from pathlib import Path

import pytest

from engine.catalogue.actions import Actions
from engine.eventlog.base import Partition, Records
from engine.ingest.decoder import ClickDecoder
from engine.ingest.pseudonyms import Pseudonyms
from engine.settings.sections import ClickSettings
from tests.contracts.documents import ROOT, blocks

KEY = "k" * 32


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    (tmp_path / "key").write_text(f"{KEY}\n")
    return tmp_path / "key"


def test_the_formula(key_file: Path) -> None:
    key = hashlib.blake2b(KEY.encode(), digest_size=32).digest()
    digest = hashlib.blake2b(b"ann", key=key, digest_size=16).digest()
    expected = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert Pseudonyms(ClickSettings(pseudonym_key_file=key_file)).of("ann") == expected
    assert len(expected) == 22


def test_other_ids_and_other_keys_give_other_pseudonyms(key_file: Path, tmp_path: Path) -> None:
    pseudonyms = Pseudonyms(ClickSettings(pseudonym_key_file=key_file))
    (tmp_path / "other").write_text("o" * 32)
    others = Pseudonyms(ClickSettings(pseudonym_key_file=tmp_path / "other"))
    assert len({pseudonyms.of("ann"), pseudonyms.of("bob"), others.of("ann"), others.of("bob"), "ann", "bob"}) == 6


def test_without_a_key_ids_stay() -> None:
    assert Pseudonyms(ClickSettings()).of("ann") == "ann"


def test_clicks_and_requests_are_under_pseudonyms_and_keys_still_go_with_them(key_file: Path) -> None:
    settings = ClickSettings(pseudonym_key_file=key_file)
    click = json.dumps({"user": "ann", "item": "i", "ts": 1_700_000_000_000}).encode()
    keys = [b"ann", b'"ann"', b"session", None, b"bob"]
    values = [click, click, click, click, None]
    records = Records(Partition("clicks", 0), [*range(5)], [0] * 5, keys, values, [()] * 5)
    clicks, dead = ClickDecoder(settings, Actions(settings)).decode([records], now_ms=1_800_000_000_000)
    of = Pseudonyms(settings).of
    assert dead == []
    assert clicks.users == [of("ann")] * 4
    assert clicks.keys == [of("ann").encode(), of("ann").encode(), b"session", None]
    assert [request.user for request in clicks.forgotten] == [of("bob")]


def test_what_the_page_says_of_the_formula_is_so(key_file: Path) -> None:
    (block,) = blocks(ROOT / "docs" / "personal-data.md", "python")
    names: dict[str, object] = {}
    exec(block.replace("/etc/headrace/pseudonym.key", str(key_file)), names)  # noqa: S102 - our own page
    assert names["held_as"] == Pseudonyms(ClickSettings(pseudonym_key_file=key_file)).of("ann")
