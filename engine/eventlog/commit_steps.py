"""The steps of a commit, in the only order that loses nothing, and the member who may take them.

A log offers the steps (`CommitSteps`): real Kafka, and the simulated log of the tests, which fails between any two.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

from engine.errors import EventLogError
from engine.eventlog.base import Outgoing, Partition

_SOMEBODY_ELSE: Final = ""
"""No member's id."""


class CommitSteps(Protocol):
    """The steps of a commit on one log."""

    def send(self, outgoing: Outgoing) -> None:
        """Hand records over for delivery.

        Raises:
            DeliveryError: one cannot be taken.
        """
        ...

    def flush(self) -> dict[Partition, int]:
        """Wait until everything sent was accepted; returns the offset after the last record for each partition.

        Raises:
            DeliveryError: a record was not accepted in time.
        """
        ...

    def check_membership(self) -> None:
        """Look whether this is the member that its partitions were given to, without a request.

        Raises:
            EventLogError: it was expelled.
        """
        ...

    def measured(self) -> AbstractContextManager[None]:
        """Measures the CPU time, of all threads, of what every commit costs."""
        ...

    def record_positions(self, positions: Mapping[Partition, int]) -> None:
        """Record the next offsets to read, with the membership under which the inputs were read.

        Raises:
            EventLogError: this member may not commit, or the outcome is unknown.
        """
        ...

    def complete(self) -> None:
        """Make the transaction visible.

        Raises:
            EventLogError: it was refused, or the outcome is unknown.
        """
        ...


def at_least_once(
    steps: CommitSteps, positions: Mapping[Partition, int], state: Sequence[Outgoing]
) -> dict[Partition, int]:
    """Outputs, then state, then positions: a crash in between repeats outputs and loses none.

    Returns:
        For each partition that `state` went to, the offset after its last record.
    """
    # 1. The outputs. Were the positions recorded first, a crash in between would lose them.
    steps.flush()
    # 2. The state. Were it there first, the same inputs would change nothing when they come again: no output.
    for outgoing in state:
        steps.send(outgoing)
    ends = steps.flush()
    # 3. The positions: from here on these inputs do not come again.
    if positions:
        steps.check_membership()
        with steps.measured():
            steps.record_positions(positions)
    return ends


def exactly_once(
    steps: CommitSteps, positions: Mapping[Partition, int], state: Sequence[Outgoing]
) -> dict[Partition, int]:
    """Outputs, state and positions in one transaction: all of them become visible, or none.

    Returns:
        For each partition that anything went to, the offset after the last record.
    """
    # 1. Every record: the client would complete a transaction without those it gave up.
    for outgoing in state:
        steps.send(outgoing)
    ends = steps.flush()
    with steps.measured():
        # 2. The positions, with the membership under which they were read.
        if positions:
            steps.check_membership()
            steps.record_positions(positions)
        # 3. From here on all of it is visible, and these inputs do not come again.
        steps.complete()
    return ends


class Holder:
    """The member that the partitions held now were given to.

    A client does not always tell that they were lost: expelled while it was about to join again anyway, it joins as a
    new member and goes on with the partitions and positions of the old one. The broker cannot know, and would take what
    such a member commits; it would even take the positions of one without a generation.
    """

    def __init__(self) -> None:
        self._member_id: str | None = None

    def assigned(self, member_id: str) -> None:
        """Partitions were given to the member of this id."""
        self._member_id = member_id if self._member_id in {None, member_id} else _SOMEBODY_ELSE

    def nothing_held(self) -> None:
        """No partition is held: the next ones may be given to a member of any id."""
        self._member_id = None

    def check(self, member_id: str, generation: int) -> None:
        """Compare with the id and generation that the client has now.

        Raises:
            EventLogError: the partitions were given to another member.
        """
        if generation < 0 or member_id != self._member_id:
            raise EventLogError(
                "this worker was expelled from its group; going on from the last commit. If this comes again,"
                " raise kafka.session_timeout_s or kafka.max_poll_interval_s"
            )
