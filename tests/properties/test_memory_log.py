"""The in-process log under any order of calls: no record is lost or read twice, and shares stay even."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from engine.eventlog.base import Outgoing, Partition, Rebalance, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.eventlog.memory.session import MemorySession

ACTIONS = st.lists(
    st.tuples(st.sampled_from(["put", "join", "leave", "poll"]), st.integers(0, 7)), min_size=1, max_size=60
)


class Group:
    """Members of one group that commit every record they read and count it."""

    def __init__(self, partitions: int) -> None:
        self.log = MemoryLog()
        self.log.ensure_topics([TopicSpec("clicks", partitions)])
        self.members: list[MemorySession] = []
        self.sent = 0
        self.read: Counter[bytes | None] = Counter()
        self.owners: Counter[Partition] = Counter()

    def put(self, count: int) -> None:
        values: list[bytes | None] = [b"%d" % (self.sent + number) for number in range(count)]
        self.sent += count
        self.log.producer().send(Outgoing("clicks", values, values))

    def join(self) -> None:
        rebalance = Rebalance(assigned=self.owners.update, revoked=self.owners.subtract)
        self.members.append(self.log.session(["clicks"], "group", rebalance))

    def leave(self, member: MemorySession) -> None:
        self.members.remove(member)
        self.owners.subtract(member.assignment())
        member.close()

    def poll(self, member: MemorySession, max_records: int) -> None:
        batch = member.poll(0, max_records)
        assert sum(map(len, batch)) <= max_records
        self.read.update(value for records in batch for value in records.values)
        member.commit({records.partition: records.offsets[-1] + 1 for records in batch})

    def settle(self) -> None:
        """Three rounds of polls: one to revoke, one to assign, one to read."""
        for _ in range(3):
            for member in self.members:
                self.poll(member, 1_000)


@given(partitions=st.integers(1, 6), actions=ACTIONS)
def test_every_record_is_read_exactly_once_as_members_join_and_leave(
    partitions: int, actions: list[tuple[str, int]]
) -> None:
    group = Group(partitions)
    for action, number in actions:
        if action == "put":
            group.put(number)
        elif action == "join":
            group.join()
        elif group.members:
            member = group.members[number % len(group.members)]
            group.leave(member) if action == "leave" else group.poll(member, number + 1)
        assert all(owners <= 1 for owners in group.owners.values()), "a partition with two owners"
    group.join()
    group.settle()
    assert group.read == Counter(b"%d" % number for number in range(group.sent))
    shares = [len(member.assignment()) for member in group.members]
    assert sum(shares) == partitions
    assert max(shares) - min(shares) <= 1
