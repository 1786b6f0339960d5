"""The event log of a simulated process: the engine's commit steps on a simulated broker, failing between any two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, Self, TypeVar

from engine.errors import DeliveryError, EventLogError
from engine.eventlog import commit_steps
from engine.eventlog.base import Outgoing, Partition, Rebalance, Records, TopicSpec
from engine.eventlog.commit_steps import Holder
from engine.eventlog.share_watch import owed
from tests.simulation.broker import SESSION_TIMEOUT_S, Broker, Transaction
from tests.simulation.faults import MENUS, Crash, Faults

Result = TypeVar("Result")


class Surroundings(Protocol):
    """What a log needs of the simulation around it."""

    broker: Broker
    faults: Faults

    def note(self, text: str) -> None:
        """Write a line of the trace."""
        ...

    def freeze(self, process: str, seconds: float) -> None:
        """Let all others run for so long, while this process is stopped in the middle of a call."""
        ...

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something when so much time has passed."""
        ...


class FaultyLog:
    """One process's clients of the broker (see `engine.eventlog.base.EventLog`)."""

    def __init__(self, surroundings: Surroundings, process: str, delivery: str) -> None:
        self.surroundings = surroundings
        self.process = process
        self.delivery = delivery
        self.sessions: list[FaultySession] = []
        self.is_dead = False
        self._idle_ids: list[str] = []
        self._names = 0
        self.blind_until_s = 0.0
        """Until when no broker says what is open."""

    def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Create those that are missing."""
        self.surroundings.broker.create(specs)

    def partitions(self, topic: str) -> int:
        """Partitions of a topic."""
        return len(self.surroundings.broker.partitions(topic))

    def identity(self, topic: str) -> str:
        """A name of the topic: none is ever deleted here."""
        return f"identity of {topic}"

    def end_abandoned(self, partitions: Sequence[Partition], shared: Sequence[str] = ()) -> bool:
        """Take over the transactional ids of what is open there, and end what no coordinator knows."""
        broker = self.surroundings.broker
        if broker.now_s >= self.blind_until_s and self.surroundings.faults.draw_apart("look"):
            self.blind_until_s = broker.now_s + self.surroundings.faults.detail().choice([0.5, 5.0])
        if broker.now_s < self.blind_until_s:
            self.surroundings.note(f"{self.process} CANNOT LOOK for what is open")
            return False
        for hanging in [*broker.hanging]:
            if any(place in partitions or place.topic in shared for place in hanging.first_offsets):
                broker.end_hanging(hanging)
        for producer, transaction in list(broker.open.items()):
            if any(partition in transaction.first_offsets for partition in partitions):
                broker.init_producer(producer)
        return True

    def begin_group(self, group: str, topic: str, from_ms: int | None) -> None:
        """Groups begin at the first record here, as by the default of the settings."""
        raise NotImplementedError("no simulated settings name another start")

    def group_positions(self, group: str, topic: str) -> dict[int, int]:
        """Only a worker without a changelog wants them, which is never deleted here."""
        raise NotImplementedError("the changelog of a simulated world is there")

    def delete_before(self, offsets: Mapping[Partition, int]) -> None:
        """Delete the records of each partition before an offset."""
        for partition, offset in offsets.items():
            self.surroundings.broker.delete_before(partition, offset)

    def session(self, topics: Sequence[str], group: str, rebalance: Rebalance) -> FaultySession:
        """A new member, and its producer."""
        broker, producer, epoch = self.surroundings.broker, "", 0
        if self.delivery == "exactly_once":
            producer = self._idle_ids.pop(0) if self._idle_ids else f"{self.process}-{self.new_name()}"
            epoch = broker.init_producer(producer)
        session = FaultySession(self, topics[0], group, rebalance, (producer, epoch))
        self.sessions.append(session)
        return session

    def producer(self) -> SimulatedProducer:
        """A producer that does not fail."""
        return SimulatedProducer(self.surroundings.broker)

    def reader(self, topics: Sequence[str | Partition]) -> FaultyReader:
        """A reader."""
        broker = self.surroundings.broker
        partitions = [topic for topic in topics if isinstance(topic, Partition)]
        for topic in topics:
            if isinstance(topic, str):
                partitions += broker.partitions(topic)
        return FaultyReader(self, partitions)

    def closed(self, session: FaultySession, producer: str) -> None:
        """Keep the transactional id for the next session of this process."""
        self.sessions.remove(session)
        if producer:
            self._idle_ids.append(producer)

    def new_name(self) -> int:
        """A number that this process has not used."""
        self._names += 1
        return self._names

    def step(self, name: str, menu: str, action: Callable[[], Result]) -> Result:
        """Do something that may fail before or after it is done."""
        fault = self.surroundings.faults.draw(MENUS[menu])
        if not fault:
            return action()
        self.surroundings.note(f"{self.process} {name}: {fault.upper()}")
        if fault == "crash before":
            self.die()
        if fault == "refused":
            raise EventLogError(f"simulated: {name} was refused")
        if fault == "zombie before":
            self._freeze()
        result = action()
        if fault == "crash after":
            self.die()
        if fault == "unknown outcome":
            raise EventLogError(f"simulated: no answer to {name} in time")
        if fault == "zombie after":
            self._freeze()
        return result

    def die(self) -> None:
        """kill -9."""
        self.is_dead = True
        raise Crash(self.process)

    def _freeze(self) -> None:
        self.surroundings.freeze(self.process, self.surroundings.faults.detail().choice([1.0, 12.0, 25.0]))


class FaultySession:
    """A member of the group (see `engine.eventlog.base.Session` and `engine.eventlog.commit_steps.CommitSteps`)."""

    def __init__(self, log: FaultyLog, topic: str, group: str, rebalance: Rebalance, producer: tuple[str, int]) -> None:
        self._log = log
        self._broker = log.surroundings.broker
        self._topic = topic
        self._group_name = group
        self._rebalance = rebalance
        self._producer, self._epoch = producer
        self._transaction: Transaction | None = None
        self._outbox: list[Outgoing] = []
        self._cursor: dict[Partition, int] = {}
        self._to_fetch: set[Partition] = set()
        """Assigned partitions whose committed position is still to be fetched."""
        self._paused: set[Partition] = set()
        self._holder = Holder()
        self._starts: dict[Partition, int] = {}
        self._polled_s = 0.0
        self._looked = False
        self.member = ""

    def poll(self, timeout_s: float, max_records: int) -> list[Records]:
        """Take part in the group, and read."""
        del timeout_s  # no time passes inside a call
        fault = self._log.surroundings.faults.draw(MENUS["poll"])
        if fault:
            self._log.surroundings.note(f"{self._log.process} poll: {fault.upper()}")
            self._before_poll(fault)
        group = self._broker.group(self._group_name)
        if self.member not in group.members:
            self._join(unnoticed=fault == "joins again unnoticed")
        group.heard_s[self.member] = self._broker.now_s
        self._hand_over(group.leaving(self.member))
        self._take_over(group.arriving(self.member), is_lost=fault == "assignment lost")
        if self._cursor:
            self.check_membership()
        else:
            self._holder.nothing_held()
        batch = self._read(max_records)
        self._polled_s, self._looked = self._broker.now_s, False
        self._starts = {records.partition: records.offsets[0] for records in batch}
        return batch

    def send(self, outgoing: Outgoing) -> None:
        """Put records into the outbox; a transaction begins with the first."""
        outgoing.check()
        if not self._producer and self._starts and not self._looked:
            commit_steps.look_first(self, self._broker.now_s - self._polled_s, SESSION_TIMEOUT_S)
            self._looked = True
        self._log.step("send", "step", self._begin)
        self._outbox.append(outgoing)

    def commit(self, positions: Mapping[Partition, int], state: Sequence[Outgoing] = ()) -> dict[Partition, int]:
        """The engine's own steps, in their order."""
        topics = {outgoing.topic for outgoing in state}
        deliver = commit_steps.exactly_once if self._producer else commit_steps.at_least_once
        ends = deliver(self, positions, state)
        return {partition: end for partition, end in ends.items() if partition.topic in topics}

    def flush(self) -> dict[Partition, int]:
        """Deliver the outbox."""
        outbox, self._outbox = self._outbox, []
        if not outbox:
            return {}
        surroundings = self._log.surroundings
        fault = surroundings.faults.draw(MENUS["flush"])
        if fault in {"torn", "torn by a crash"}:
            surroundings.note(f"{self._log.process} flush: {fault.upper()}")
            self._deliver_part(outbox)
            if fault == "torn by a crash":
                self._log.die()
            raise DeliveryError("simulated: some records were not accepted")
        if fault == "arrives late":
            surroundings.note(f"{self._log.process} flush: {fault.upper()}")
            delay_s = surroundings.faults.detail().choice([0.5, 3.0, 15.0])
            transaction = self._transaction
            surroundings.later(delay_s, lambda: self._arrive_late(outbox, transaction))
            raise DeliveryError("simulated: no answer in time, the records are on their way")
        ends = self._log.step("flush", "step", lambda: self._deliver(outbox, self._transaction))
        if self._transaction and self._transaction.first_offsets and surroundings.faults.draw_apart("hang"):
            self._leave_open(self._transaction)
        return ends

    def check_membership(self) -> None:
        """What the client knows without a request."""
        self._holder.check(self.member, 0)

    def confirm_membership(self) -> None:
        """Record once more where the batch began."""
        self._log.step("confirming membership", "step", lambda: self._record(self._starts))

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Nothing is measured."""
        yield

    def record_positions(self, positions: Mapping[Partition, int]) -> None:
        """Put positions into the transaction, or into the group."""
        self._log.step("positions", "step", lambda: self._record(positions))

    def complete(self) -> None:
        """End the transaction."""
        if self._transaction is not None and self._log.surroundings.faults.draw_apart("complete"):
            self._end_without_answer()
        elif self._producer:
            self._log.step("complete", "step", self._complete)

    def assignment(self) -> list[Partition]:
        """Partitions held."""
        return sorted(self._cursor)

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on at `offset`."""
        self._cursor[partition] = offset
        self._to_fetch.discard(partition)

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Hold back."""
        self._paused.update(partitions)

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Let come."""
        self._paused.difference_update(partitions)

    def lag(self) -> dict[Partition, int]:
        """Offsets not yet read."""
        known = {p: position for p, position in self._cursor.items() if p not in self._to_fetch}
        return {p: max(self._broker.log(p).end - position, 0) for p, position in known.items()}

    def silent_s(self) -> float:
        """A log in this process always answers."""
        return 0.0

    def take_deleted(self) -> dict[Partition, range]:
        """Retention deletes only what was read here."""
        return {}

    def unserved(self) -> list[Partition]:
        """What the group says that this member holds, or should, and it does not read."""
        group = self._broker.group(self._group_name)
        shares: dict[str, set[Partition]] = {str(member): set() for member in group.members}
        for partition in group.partitions:
            holder = group.holders.get(partition, group.targets.get(partition))
            if holder in shares:
                shares[str(holder)].add(partition)
        return [p for p in owed(shares, {self.member}, group.partitions) if p not in self._cursor]

    def close(self) -> None:
        """Abort and leave, if the process still lives; either may fail."""
        if self._log.is_dead:
            return
        self._log.closed(self, self._producer)
        self._log.step("leaving the group", "close", self._leave)

    def heartbeat(self) -> None:
        """Tell the group that this member lives."""
        heard_s = self._broker.group(self._group_name).heard_s
        if self.member in heard_s:
            heard_s[self.member] = self._broker.now_s

    def _before_poll(self, fault: str) -> None:
        surroundings = self._log.surroundings
        if fault == "crash before":
            self._log.die()
        if fault == "refused":
            raise EventLogError("simulated: poll was refused")
        if fault == "zombie before":
            self._log._freeze()
        if fault == "fenced" and self._producer:
            self._broker.init_producer(self._producer)
        if fault == "joins again unnoticed" and self._cursor:
            self._broker.leave(self._group_name, self.member)
            self._log._freeze()  # until others have taken over
        if fault == "rebalance":
            group, random = self._broker.group(self._group_name), surroundings.faults.detail()
            if group.members and group.partitions:
                group.move(random.choice(group.partitions), str(random.choice(group.members)))

    def _join(self, *, unnoticed: bool) -> None:
        """Join as a new member; the client tells that the partitions are lost, unless it does not notice."""
        if self._cursor and not unnoticed:
            lost = sorted(self._cursor)
            self._cursor.clear()
            self._to_fetch.clear()
            self._paused.clear()
            self._holder.nothing_held()
            self._rebalance.lost(lost)
        self.member = f"{self._log.process}/{self._log.new_name()}"
        self._broker.join(self._group_name, self.member, self._topic)

    def _hand_over(self, leaving: Sequence[Partition]) -> None:
        group = self._broker.group(self._group_name)
        known = [partition for partition in leaving if partition in self._cursor]
        if known:
            self._rebalance.revoked(known)
        for partition in leaving:
            group.holders.pop(partition, None)
            self._cursor.pop(partition, None)
            self._to_fetch.discard(partition)
            self._paused.discard(partition)

    def _take_over(self, arriving: Sequence[Partition], *, is_lost: bool) -> None:
        group = self._broker.group(self._group_name)
        for partition in arriving:
            group.holders[partition] = self.member
            if not is_lost:
                self._cursor[partition] = 0
                self._to_fetch.add(partition)
        if arriving and not is_lost:
            self._holder.assigned(self.member)
            self._rebalance.assigned(arriving)

    def _fetch_positions(self) -> None:
        for partition in sorted(self._to_fetch):
            position = self._broker.position(self._group_name, partition)
            if position is not None:
                self._cursor[partition] = position
                self._to_fetch.discard(partition)

    def _read(self, most: int) -> list[Records]:
        self._fetch_positions()
        batch = []
        for partition in sorted(self._cursor):
            if partition not in self._paused | self._to_fetch and most > 0:
                records, self._cursor[partition] = self._broker.read(partition, self._cursor[partition], most)
                if len(records):
                    batch.append(records)
                    most -= len(records)
        return batch

    def _begin(self) -> None:
        if self._producer and self._transaction is None:
            self._transaction = self._broker.begin(self._producer, self._epoch)

    def _deliver(self, outbox: Sequence[Outgoing], transaction: Transaction | None) -> dict[Partition, int]:
        if transaction is not None:
            self._broker.check_open(transaction)
        ends: dict[Partition, int] = {}
        for outgoing in outbox:
            ends |= self._broker.append(outgoing, transaction=transaction)
        return ends

    def _deliver_part(self, outbox: Sequence[Outgoing]) -> None:
        """The first records of a random number of partitions: each partition has its own request."""
        if self._transaction is not None:
            self._broker.check_open(self._transaction)
        random = self._log.surroundings.faults.detail()
        for outgoing in outbox:
            rows = [row for row in range(len(outgoing)) if random.random() < 0.5]
            self._broker.append(outgoing, rows, self._transaction)

    def _arrive_late(self, outbox: Sequence[Outgoing], transaction: Transaction | None) -> None:
        """Requests that were on their way when their sender gave up; those of an ended transaction are refused."""
        try:
            if transaction is not None and transaction.state == "aborted" and not transaction.is_fenced:
                self._broker.append(outbox[0], [0], transaction)
                self._broker.hang(transaction, next(iter(transaction.first_offsets)))
            else:
                self._deliver(outbox, transaction)
        except EventLogError:
            return
        self._log.surroundings.note(f"{self._log.process}: late records arrive")

    def _record(self, positions: Mapping[Partition, int]) -> None:
        if self._transaction is None and self._producer:
            self._begin()
        self._broker.check_member(self._group_name, self.member)
        if self._transaction is None:
            self._broker.group(self._group_name).record(dict(positions), None)
            return
        self._broker.check_open(self._transaction)
        self._transaction.group = self._group_name
        self._transaction.positions.update(positions)

    def _complete(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            self._broker.check_open(transaction)
            self._broker.end(transaction, "committed")

    def _end_without_answer(self) -> None:
        """Ask for the end, and lose the connection; it may arrive after whatever comes next."""
        surroundings, broker = self._log.surroundings, self._broker
        surroundings.note(f"{self._log.process} complete: ENDS LATE")
        delay_s = surroundings.faults.detail().choice([0.05, 0.5, 1.0, 3.0])
        surroundings.later(delay_s, lambda: self._note_late_end(broker.end_late(self._producer, self._epoch)))
        self._unanswered()

    def _note_late_end(self, has_ended: bool) -> None:
        self._log.surroundings.note(
            f"{self._log.process}: the late end {'ends something' if has_ended else 'is refused'}"
        )

    def _unanswered(self) -> None:
        """What the engine's client does: it repeats nothing."""
        raise EventLogError("simulated: the connection was lost before the answer came")

    def _leave_open(self, transaction: Transaction) -> None:
        """Fail, with the records on one partition left open."""
        surroundings = self._log.surroundings
        dice = surroundings.faults.detail()
        partition = dice.choice(sorted(transaction.first_offsets))
        self._log.blind_until_s = self._broker.now_s + dice.choice([0.0, 10.0])  # a broker in trouble tells nothing
        surroundings.note(f"{self._log.process} flush: LEFT OPEN on {partition.topic}/{partition.number}")
        self._broker.hang(transaction, partition)
        raise DeliveryError("simulated: some records were not accepted in time")

    def _end_open(self) -> None:
        """What the engine does with a transaction that failed: a new producer of the same id ends it."""
        self._broker.init_producer(self._producer)

    def _leave(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None and transaction.state == "open":
            self._end_open()
        self._broker.leave(self._group_name, self.member)


class SimulatedProducer:
    """Puts records on topics at once."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def send(self, outgoing: Outgoing) -> None:
        """Append."""
        self._broker.append(outgoing)

    def flush(self) -> None:
        """Nothing is under way."""

    def close(self) -> None:
        """Nothing to free."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class FaultyReader:
    """Reads partitions without a group (see `engine.eventlog.base.Reader`)."""

    def __init__(self, log: FaultyLog, partitions: Sequence[Partition]) -> None:
        self._log = log
        self._broker = log.surroundings.broker
        logs = {partition: self._broker.log(partition) for partition in partitions}
        self.bounds = {partition: range(log.start, log.end) for partition, log in logs.items()}
        self._positions = {partition: bounds.start for partition, bounds in self.bounds.items()}

    def poll(self, timeout_s: float, max_records: int) -> list[Records]:
        """Committed records."""
        del timeout_s
        return self._log.step("reading", "read", lambda: self._read(max_records))

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on elsewhere."""
        self._positions[partition] = offset

    def position(self, partition: Partition) -> int:
        """The next offset."""
        return self._positions[partition]

    def at_end(self) -> bool:
        """Whether all is read that was there at first."""
        return all(self._positions[partition] >= bounds.stop for partition, bounds in self.bounds.items())

    def close(self) -> None:
        """Nothing to free."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _read(self, most: int) -> list[Records]:
        batch = []
        for partition, position in self._positions.items():
            if most > 0:
                records, self._positions[partition] = self._broker.read(partition, position, most)
                if len(records):
                    batch.append(records)
                    most -= len(records)
        return batch
