import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.messages.recommendation import ListedItem, Recommendation
from engine.ranking.popularity import Popularity
from producers.demo.scoreboard import Click, Scoreboard

ITEMS = {f"i{number}": number for number in range(30)}
users = st.sampled_from(["u1", "u2", "u3"])
clicks = st.tuples(st.just("click"), users, st.sampled_from(list(ITEMS)))
lists = st.tuples(st.just("list"), users, st.permutations(list(ITEMS)).map(lambda items: items[:12]))


@given(st.lists(clicks | lists, max_size=60), st.lists(st.integers(0, 100), min_size=60, max_size=60))
def test_every_click_is_answered_once_and_ranked_at_most_once(
    steps: list[tuple[str, str, object]], gaps_ms: list[int]
) -> None:
    """Compared with plain bookkeeping; a list answers every click sent before it."""
    scoreboard = Scoreboard(ITEMS, Popularity(), {"view": 1.0})
    unanswered_ms: dict[str, list[int]] = {}
    freshness_ms, latest, hits = [], dict[str, list[str]](), []
    now_ms = 1
    for (kind, user, content), gap_ms in zip(steps, gaps_ms, strict=False):
        now_ms += gap_ms
        if kind == "click":
            item = str(content)
            if user in latest:
                hits.append(item in latest[user][:10])
            unanswered_ms.setdefault(user, []).append(now_ms)
            scoreboard.add_click(Click(user, item, now_ms, "view", sent_ms=now_ms))
        else:
            latest[user] = [str(item) for item in content]  # type: ignore[attr-defined]
            freshness_ms += [now_ms - sent_ms for sent_ms in unanswered_ms.pop(user, [])]
            items = [ListedItem(item, 1.0, "interest", 0) for item in latest[user]]
            recommendation = Recommendation(
                id="", user=user, release="r", event_ms=now_ms, computed_ms=now_ms, items=items, interests=[]
            )
            scoreboard.add_list(recommendation, now_ms)

    assert scoreboard.all_answered == (not unanswered_ms)
    assert scoreboard.hit_rate == (np.mean(hits) if hits else 0.0)
    if freshness_ms:
        for share in (0.01, 0.5, 0.99, 1.0):
            assert scoreboard.freshness_ms(share) == np.quantile(freshness_ms, share, method="inverted_cdf")
