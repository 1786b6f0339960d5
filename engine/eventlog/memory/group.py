"""A consumer group of the in-process log: members, the partitions they hold, and committed positions."""

from dataclasses import dataclass, field

from engine.errors import EventLogError
from engine.eventlog.base import Partition


@dataclass(slots=True)
class ConsumerGroup:
    """The members that share topics, and the positions they committed; used under the log's lock.

    `targets` says who should hold a partition, `holders` who does. A member drops what it should not hold, then takes
    what nobody holds, each inside its own poll; so two never hold one partition.
    """

    partitions: list[Partition] = field(default_factory=list)
    members: list[object] = field(default_factory=list)
    positions: dict[Partition, int] = field(default_factory=dict)
    targets: dict[Partition, object] = field(default_factory=dict)
    holders: dict[Partition, object] = field(default_factory=dict)

    def join(self, member: object, partitions: list[Partition]) -> None:
        """Add a member and share `partitions` out anew; all members of a group read the same topics."""
        if self.members and partitions != self.partitions:
            raise EventLogError("a member asks for other topics than the rest of its group; use another group name")
        self.partitions = partitions
        self.members.append(member)
        self._share_out()

    def leave(self, member: object) -> None:
        """Remove a member and share its partitions out; again is harmless."""
        if member in self.members:
            self.members.remove(member)
            self.holders = {partition: holder for partition, holder in self.holders.items() if holder is not member}
            self._share_out()

    def leaving(self, member: object) -> list[Partition]:
        """What `member` holds and should not."""
        return [p for p, holder in self.holders.items() if holder is member and self.targets.get(p) is not member]

    def arriving(self, member: object) -> list[Partition]:
        """What `member` should hold and nobody does."""
        return [p for p, target in self.targets.items() if target is member and p not in self.holders]

    def waits_for(self, member: object) -> bool:
        """Whether a step of the rebalance is up to `member`."""
        return bool(self.leaving(member) or self.arriving(member))

    def _share_out(self) -> None:
        """Even shares that move as little as possible: what is held stays, what is free goes to the smallest share."""
        shares = {s: [p for p in self.partitions if self.holders.get(p) is s] for s in self.members}
        if not shares:
            self.targets = {}
            return
        for partition in self.partitions:
            if partition not in self.holders:
                min(shares.values(), key=len).append(partition)
        while len(largest := max(shares.values(), key=len)) > len(smallest := min(shares.values(), key=len)) + 1:
            smallest.append(largest.pop())
        self.targets = {partition: member for member, share in shares.items() for partition in share}
