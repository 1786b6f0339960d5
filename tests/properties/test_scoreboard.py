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
def test_every_click_is_answered_once_and_judged_at_most_once(
    steps: list[tuple[str, str, object]], gaps: list[int]
) -> None:
    """Against the same score kept by hand; a list knows every click that was sent before it."""
    score = Scoreboard(ITEMS, Popularity(), {"view": 1.0})
    waiting: dict[str, list[int]] = {}
    waited, latest, judged = [], dict[str, list[str]](), []
    now_ms = 1
    for (kind, user, what), gap in zip(steps, gaps, strict=False):
        now_ms += gap
        if kind == "click":
            item = str(what)
            if user in latest:
                judged.append(item in latest[user][:10])
            waiting.setdefault(user, []).append(now_ms)
            score.clicked(Click(user, item, now_ms, "view", sent_ms=now_ms))
        else:
            latest[user] = [str(item) for item in what]  # type: ignore[attr-defined]
            waited += [now_ms - sent_ms for sent_ms in waiting.pop(user, [])]
            items = [ListedItem(item, 1.0, "interest", 0) for item in latest[user]]
            made = Recommendation(
                id="", user=user, release="r", event_ms=now_ms, computed_ms=now_ms, items=items, interests=[]
            )
            score.listed(made, now_ms)

    assert score.all_answered == (not waiting)
    assert score.hit_rate == (np.mean(judged) if judged else 0.0)
    if waited:
        for share in (0.01, 0.5, 0.99, 1.0):
            assert score.freshness_ms(share) == np.quantile(waited, share, method="inverted_cdf")
