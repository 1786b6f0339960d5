"""Figures of a backtest: next-click rates by system and part, leads with their intervals, retrainings."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from engine.arrays import Int64
from engine.quality.next_click import PLACES
from models.data.dataset import Interactions
from models.evaluation import ranking_metrics
from models.lab.backtest.backtest import Judged, Played, Retraining, together
from models.lab.backtest.stream_rivals import CONFIGURATIONS

RETRAINED: Final = "retrained"
FIRST_RELEASE: Final = "first_release"
PUSHED: Final = (RETRAINED, FIRST_RELEASE, "popularity_7d", "item_knn", "session_knn")
"""Names of the systems by their pushed lists, all made at the same moments."""
SYSTEMS: Final = (*PUSHED, "popularity_7d_at_click", "item_knn_at_click", "session_knn_at_click")
"""Those, and the rivals by lists made at the click."""


def report(played: Played, interactions: Interactions) -> dict[str, Any]:
    """The object that `headrace backtest --json` prints.

    `systems` has, by name, the accuracy metrics (`models.evaluation.ranking_metrics`) over all judged clicks, and of
    every system but the retrained one its lead, which is that of the retrained one over it. `parts` has the rates
    part by part, and why they are as they are: the shares of judged clicks whose item the release did not know, or
    whose window held it already, and the share of the first ten places of the lists that were merely popular.
    """
    judged = [part.judged for part in played.parts if part.judged is not None]
    configurations = _configurations(judged)
    ranks = [_by_system(part, configuration) for part, configuration in zip(judged, configurations, strict=True)]
    users = [interactions.users[part.events] for part in judged]
    whole = {name: np.concatenate([of_part[name] for of_part in ranks]) for name in SYSTEMS}
    all_users = np.concatenate(users)
    systems = {
        name: ranking_metrics.as_figures(ranking_metrics.accuracy(whole[name], all_users))
        | ({} if name == RETRAINED else {"lead": _lead(whole[RETRAINED], whole[name], all_users)})
        for name in SYSTEMS
    }
    parts = [
        {
            "part": number,
            "from_ms": part.from_ms,
            "clicks": part.clicks,
            "judged": len(of_part.events),
            "release": part.release,
            "unknown_share": _unknown_share(of_part, part.known, interactions),
            "first_release_unknown_share": _unknown_share(of_part, played.first_known, interactions),
            "popular_share": _popular_shares(of_part),
            "seen_share": float(of_part.seen.mean()) if len(of_part.seen) else None,
            "item_knn": dict(zip(("decay", "shrinkage"), CONFIGURATIONS[configuration], strict=True)),
            "systems": {name: _rates(ranks_of[name]) for name in SYSTEMS},
        }
        for number, part, of_part, ranks_of, configuration in zip(
            range(2, len(played.parts) + 1), played.parts[1:], judged, ranks, configurations, strict=True
        )
    ]
    return {
        "events": len(interactions),
        "users": len(interactions.user_ids),
        "items": len(interactions.item_ids),
        "judged": len(all_users),
        "systems": systems,
        "parts": parts,
        "retrainings": [_retraining(retraining) for retraining in played.retrainings],
    }


def _by_system(judged: Judged, configuration: int) -> dict[str, Int64]:
    at_both = [(moment[:, 0], moment[:, 2 + configuration], moment[:, 1]) for moment in judged.rivals.swapaxes(0, 1)]
    ranks = (judged.retrained, judged.first_release, *at_both[0], *at_both[1])
    return dict(zip(SYSTEMS, ranks, strict=True))


def _configurations(judged: list[Judged]) -> list[int]:
    """Of each part, the item-kNN that had the best NDCG@10 on the parts before it; the first before there is any.

    By its pushed lists, and for lists made at the click too.
    """
    configurations = [0]
    for count in range(1, len(judged)):
        before = together(judged[:count]).rivals[:, 0, 2:]
        gains = [ranking_metrics.gains(before[:, index])["ndcg10"].sum() for index in range(len(CONFIGURATIONS))]
        configurations.append(int(np.argmax(gains)))
    return configurations


def _lead(ranks: Int64, other_ranks: Int64, users: Any) -> Mapping[str, Any]:
    return ranking_metrics.lead(ranks[None], other_ranks[None], users)


def _rates(ranks: Int64) -> dict[str, float | None]:
    return {metric: float(gain.mean()) if len(gain) else None for metric, gain in ranking_metrics.gains(ranks).items()}


def _unknown_share(judged: Judged, known: frozenset[str], interactions: Interactions) -> float | None:
    """Share of judged clicks on items that a release does not know."""
    clicked = [interactions.item_ids[item] for item in interactions.items[judged.events].tolist()]
    return sum(item not in known for item in clicked) / len(clicked) if clicked else None


def _popular_shares(judged: Judged) -> dict[str, float | None]:
    shares = judged.popular_places.mean(axis=0) / PLACES if len(judged.events) else (None, None)
    return {name: None if share is None else float(share) for name, share in zip(PUSHED[:2], shares, strict=True)}


def _retraining(retraining: Retraining) -> dict[str, Any]:
    outcome = retraining.outcome
    return {
        "after_part": retraining.after_part,
        "release": outcome.release,
        "outcome": outcome.outcome,
        "reasons": outcome.reasons,
        "seconds": round(retraining.seconds, 1),
    }
