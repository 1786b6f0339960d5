"""Releases are published from folders and addresses, after a trial, and workers fetch them from there."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from click.testing import CliRunner

from engine.errors import DamagedReleaseError, EventLogError, ReleaseError, UnfitReleaseError
from engine.eventlog import topic_plan
from engine.eventlog.base import Outgoing, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.messages.announcement import Announcement
from engine.messages.recommendation import Recommendation
from engine.releases import bundles, remote
from engine.releases.announcements import TopicFeed
from engine.releases.registrar import Registrar
from engine.settings.sections import ReleaseSettings, Settings
from models.cli.publish import publish
from models.jobs.live_release import TopicStage
from models.publishing import announce
from tests.unit.test_bundles import rewritten

fsspec = pytest.importorskip("fsspec")
TRIAL = ReleaseSettings(load_timeout_s=60.0)


@pytest.fixture
def address(tiny_release: Path) -> Iterator[str]:
    """The tiny release on a file system that is not this machine's."""
    place = f"memory://bucket-{uuid4().hex}/{tiny_release.name}"
    files, path = fsspec.core.url_to_fs(place)
    for file in tiny_release.iterdir():
        files.pipe_file(f"{path}/{file.name}", file.read_bytes())
    yield place
    files.rm(path, recursive=True)


def test_an_address_is_announced_as_it_is_and_fetched_from_there(
    address: str, tiny_release: Path, tmp_path: Path
) -> None:
    log = MemoryLog()
    with announce.checked(address, TRIAL) as local:
        announce.to_topic(local, log, TopicSpec("releases", compacted=True), 123, address)
    (announced,) = TopicFeed(log.reader(["releases"]), "two-hop").live()
    assert announced.bundle == address
    copy = remote.fetch(announced.bundle, tmp_path)
    assert copy.parent == tmp_path
    assert bundles.read(copy).manifest == bundles.read(tiny_release).manifest


def test_a_relative_path_is_announced_absolute(tiny_release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_release.parent)
    announced: Announcement = announce.to_topic(
        Path(tiny_release.name), MemoryLog(), TopicSpec("releases", compacted=True), 123
    )
    assert announced.bundle == str(tiny_release.resolve())


def test_what_no_worker_could_load_is_not_announced(tiny_release: Path, tmp_path: Path) -> None:
    rubbish = rewritten(tiny_release, tmp_path, encoder_onnx=b"rubbish")
    with pytest.raises(UnfitReleaseError, match="encoder"), announce.checked(str(rubbish), TRIAL):
        pytest.fail("it was let pass")


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        ("/of/another/host", DamagedReleaseError, r"release /of/another/host: there is no such folder on this host \("),
        ("nosuch://bucket/two-hop-7", ReleaseError, r"nosuch://bucket/two-hop-7 cannot be fetched: .*nosuch"),
        ("memory://nowhere/two-hop-7", ReleaseError, r"two-hop-7 cannot be fetched: FileNotFoundError"),
    ],
)
def test_a_place_that_cannot_be_reached_is_named(
    place: str, error: type[ReleaseError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        remote.fetch(place, tmp_path)


def sent_list(release: str) -> bytes:
    return msgspec.json.encode(
        Recommendation(id="0-1", user="ann", release=release, event_ms=1, computed_ms=2, items=[], interests=[])
    )


def test_publishing_waits_for_a_list_by_the_release() -> None:
    log = MemoryLog()
    log.ensure_topics([TopicSpec("recommendations", 2)])
    log.producer().send(Outgoing("recommendations", [b"ann"], [sent_list("two-hop-7")]))  # of an earlier life
    with announce.lists_from_now(log, "recommendations") as lists:
        with pytest.raises(EventLogError, match=r"two-hop-7 is announced, but no list by it came within 0\.3 s"):
            announce.wait_until_taken(lists, "two-hop-7", 0.3)
        values = [sent_list("two-hop-6"), None, sent_list("two-hop-7")]
        send = threading.Timer(
            0.2, lambda: log.producer().send(Outgoing("recommendations", [b"a", b"b", b"c"], values))
        )
        send.start()
        assert 0.0 < announce.wait_until_taken(lists, "two-hop-7", 20.0) < 20.0
        send.join()


def test_publishing_says_that_a_release_waits_for_a_pin_to_be_lifted(tiny_release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "watched"
    announce.to_folder(tiny_release, folder, 1)
    registrar = Registrar("two-hop", None, TopicSpec("releases"), folder)
    registrar.change(lambda registry: registry.pin("tiny", 2))
    later = rewritten(tiny_release, tmp_path, version="later")
    command = [str(later), "--folder", str(folder)]
    answer = CliRunner().invoke(publish, command, catch_exceptions=False).stdout.splitlines()
    assert answer[1:] == ["two-hop is pinned to tiny: it waits for `headrace releases unpin`"]
    candidate = rewritten(tiny_release, tmp_path, version="candidate", action_values={"buy": 2.0})
    command = [str(candidate), "--folder", str(folder), "--as", "candidate"]
    (line,) = CliRunner().invoke(publish, command, catch_exceptions=False).stdout.splitlines()
    assert "two-hop-candidate is announced as candidate" in line
    assert registrar.read().aliases() == {"live": "tiny", "candidate": "candidate"}


def test_a_release_of_a_host_whose_clock_is_slow_is_live(tiny_release: Path, tmp_path: Path) -> None:
    """Another host's clock is half an hour ahead; publishing by hand and a retraining both date theirs after its."""
    folder, log = tmp_path / "watched", MemoryLog()
    settings = Settings(releases=ReleaseSettings(folder=folder))
    registrar = Registrar("two-hop", log, topic_plan.releases(settings), folder)
    announce.to_folder(tiny_release, folder, time.time_ns() // 1_000_000 + 1_800_000)
    by_hand = rewritten(tiny_release, tmp_path, version="by-hand")
    CliRunner().invoke(publish, [str(by_hand), "--folder", str(folder)], catch_exceptions=False)
    assert registrar.read().aliases() == {"live": "by-hand", "previous": "tiny"}
    retrained = rewritten(tiny_release, tmp_path, version="retrained", action_values={"buy": 2.0})
    TopicStage(settings, log).publish(retrained, "live")
    assert registrar.read().aliases() == {"live": "retrained", "previous": "by-hand"}
