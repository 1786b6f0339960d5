"""The id of a pushed list, which says by which arm of a canary or experiment the list was made. Pure.

    3-1234-two-hop-7                                   input partition, offset, release
    3-1234-two-hop-7~diversity~much                    and the mark: the experiment and its arm
    3-1234-two-hop-8~canary.1764143000000~canary       of a canary, with the time at which it was announced
    3-1234-two-hop-7+two-hop-8~canary.1764143000000~canary+0110100101
                                                       of both releases: which of them put each of the first ten items

So a report of what was shown needs nothing but this id to be counted, whichever server took it and however many lists
the user was sent since: an attribution token, as the interfaces of recommendation services call it.
"""

from typing import Final, NamedTuple

_MARK: Final = "~"
"""Not in the name of an experiment or of an arm; names of releases may have it, which come before."""
_TEAMS: Final = "+"
_NO_TEAM: Final = "."


class ListMark(NamedTuple):
    """The arm that made a list."""

    trial: str
    """The experiment, or the canary."""
    arm: str
    """Name of the arm in it."""
    teams: tuple[int, ...] = ()
    """Of a list that two releases made together: for each of the first places 0 or 1, or -1 where it is empty."""

    def __str__(self) -> str:
        teams = "".join(_NO_TEAM if team < 0 else str(team) for team in self.teams)
        return f"{_MARK}{self.trial}{_MARK}{self.arm}{_TEAMS if teams else ''}{teams}"


def list_id(partition: int, offset: int, release: str, mark: str = "") -> str:
    """The id of the list that follows from the click at this offset; `mark` is a `ListMark` as text."""
    return f"{partition}-{offset}-{release}{mark}"


def mark_of(decision: str) -> ListMark | None:
    """The mark in the id of a list; None where there is none."""
    _, *parts = decision.rsplit(_MARK, 2)
    if len(parts) != 2:  # noqa: PLR2004 - trial and arm
        return None
    arm, _, teams = parts[1].partition(_TEAMS)
    if not set(teams) <= {"0", "1", _NO_TEAM}:
        return None
    return ListMark(parts[0], arm, tuple(-1 if team == _NO_TEAM else int(team) for team in teams))


def canary_trial(announced_ms: int) -> str:
    """The trial of a canary, in the mark of its lists; a second try of a version is another trial."""
    return f"canary.{announced_ms}"
