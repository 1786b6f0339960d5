"""Where the settings say so, a list like the user's last one is not sent again; the window is written all the same."""

from pathlib import Path

from engine.eventlog.memory.log import MemoryLog
from engine.settings.sections import RecommendationSettings, WorkerSettings
from tests.integration import equality


def test_only_lists_that_differ_from_the_last_are_sent(data_folder: Path, tiny_release: Path) -> None:
    clicks = equality.recorded(data_folder, 300)
    chosen = equality.settings(
        tiny_release,
        recommendations=RecommendationSettings(count=1, resend_unchanged=False),
        worker=WorkerSettings(max_batch_clicks=1),
    )
    sends_all = chosen.model_copy(update={"recommendations": RecommendationSettings(count=1)})
    calm = equality.undisturbed(clicks, sends_all)
    wanted: list[str] = []
    last: dict[str, list[str]] = {}
    for one in calm.lists:
        items = [place.item for place in one.items]
        if last.get(one.user) != items:
            wanted.append(one.id)
        last[one.user] = items
    assert len(clicks) // 20 < len(wanted) < len(clicks)
    log = MemoryLog()
    log.ensure_topics(equality.topics(chosen))
    log.producer().send(clicks.outgoing(chosen.clicks.topic, 0, len(clicks)))
    equality.serve(log, chosen, len(clicks))
    found = equality.outcome(log, chosen)
    assert sorted(one.id for one in found.lists) == sorted(wanted)
    assert found.windows == calm.windows
