import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.catalogue import searches
from engine.catalogue.actions import Actions
from engine.eventlog.base import Partition, Records
from engine.ingest.decoder import ClickDecoder
from engine.settings.sections import ClickFields, ClickSettings
from producers.replay.click_encoder import ClickEncoder, ProducedEvents

FIELDS = (
    ClickFields(),
    ClickFields(user="user.id", item="object.id", time="at", action="user.did", event_id="object.meta.uuid"),
    ClickFields(user="%s", item="ü.%", time="%(t)d.%b", action="%%"),
    ClickFields(user=r"user\.id", item="items.1.id", time="items.0", action=r"items.1.\0", event_id="meta.2.0.id"),
)
ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=searches.MARK), min_size=1, max_size=20)


@given(
    st.lists(
        st.tuples(ids, ids, st.integers(631_152_000_000, 2_000_000_000_000), st.sampled_from(["view", "buy"])),
        min_size=1,
    ),
    st.sampled_from(FIELDS),
    st.sampled_from(["s", "ms", "us", "iso8601"]),
)
def test_the_engine_decodes_encoded_events(
    rows: list[tuple[str, str, int, str]], fields: ClickFields, unit: str
) -> None:
    settings = ClickSettings.model_validate({"fields": fields, "time_unit": unit})
    users, items, times_ms, names = map(list, zip(*rows, strict=True))
    sent = ClickEncoder(settings).encode(
        ProducedEvents(users, items, np.array(times_ms), names, list(map(str, range(len(rows)))))
    )
    count = len(sent)
    records = Records(Partition("clicks", 0), list(range(count)), [0] * count, sent.keys, sent.values, [()] * count)

    actions = Actions(settings)
    clicks, dead_letters = ClickDecoder(settings, actions).decode([records], now_ms=2_000_000_000_000)

    assert not dead_letters
    assert clicks.users == users
    assert clicks.items == items
    assert clicks.times_ms.tolist() == times_ms
    assert clicks.actions.tolist() == list(map(actions.code, names))
    assert (clicks.event_hashes != 0).all()
