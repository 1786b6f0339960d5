"""What may be learned from and what is asked: the splits, and the figures an answer scores.

Leave-last-out asks for each user's newest event. The time split asks for every event at or after the 90 % quantile of
event time, in order. Training leaves out what will be asked, and the release says so (`engine.release.Holdout`).
"""

# ruff: noqa: PLR2004 - 10 and 20 are what HR@10, NDCG@10 and HR@20 mean
import numpy as np

from engine.columns import Bool, Int32, Int64
from engine.release import Holdout
from models.dataset import Interactions
from models.settings import HoldoutName

TRAINING_SHARE = 0.9
"""Share of the events that lies before the time split."""
_NO_PLACE = 1 << 30


def holdout(interactions: Interactions, name: HoldoutName) -> Holdout:
    """The holdout called `name` for this data."""
    return Holdout(
        last_event=name in {"last", "both"},
        from_ms=split_ms(interactions.times_ms) if name in {"time", "both"} else None,
    )


def split_ms(times_ms: Int64) -> int:
    """Where the time split begins: the event time that stands after the first 90 % of the events."""
    return int(times_ms[int(TRAINING_SHARE * len(times_ms))])


def newest(users: Int32) -> Bool:
    """[n] marks the newest event of each user, of events in order of time."""
    marks = np.zeros(len(users), np.bool_)
    reversed_first = np.unique(users[::-1], return_index=True)[1]
    marks[len(users) - 1 - reversed_first] = True
    return marks


def held_out(interactions: Interactions, left_out: Holdout) -> Bool:
    """[n] marks the events that training must not see."""
    marks = np.zeros(len(interactions), np.bool_)
    if left_out.last_event:
        marks |= newest(interactions.users)
    if left_out.from_ms is not None:
        marks |= interactions.times_ms >= left_out.from_ms
    return marks


class Tally:
    """Scores lists as they come, full ranking, one target each.

    HR@N is the share of targets in the first N places; NDCG@10 the mean of 1 / log2(1 + place), 0 beyond the tenth;
    coverage the share of the catalogue that stands in the first ten places of any list.
    """

    def __init__(self, catalogue: Int32) -> None:
        """`catalogue` [V]: the item numbers that coverage is a share of."""
        self._catalogue = catalogue
        self._places: list[Int64] = []
        self._listed = np.zeros(int(catalogue.max()) + 1, np.bool_)

    def add(self, lists: Int32, targets: Int32) -> None:
        """Lists [B, N] of item numbers, best first, N at least 20, and the item [B] each should hold."""
        found = lists == targets[:, None]
        self._places.append(np.where(found.any(axis=1), found.argmax(axis=1) + 1, _NO_PLACE))
        top = lists[:, :10]
        self._listed[top[(top >= 0) & (top < len(self._listed))]] = True

    def figures(self) -> dict[str, float]:
        """The figures by name; all 0 when nothing was added."""
        places = np.concatenate([*self._places, np.full(int(not self._places), _NO_PLACE)])
        return {
            "hr10": float((places <= 10).mean()),
            "ndcg10": float(np.where(places <= 10, 1.0 / np.log2(1.0 + places), 0.0).mean()),
            "hr20": float((places <= 20).mean()),
            "coverage": float(self._listed[self._catalogue].mean()),
        }
