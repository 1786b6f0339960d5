"""Transactions left open on partitions: which of them somebody will end, and the end of those that nobody will.

A broker ends what a dead producer left open (`kafka.transaction_timeout_s`), as long as its coordinator knows of it. A
record that arrives after the end of its transaction opens one that no coordinator knows: no time limit ends it, and no
reader of committed records gets past it. What tells the two apart is Kafka's own procedure (KIP-664): the partition
says what is open there, and the coordinator says what it knows. Then the partition says it again, because a transaction
may have ended in between. What is open both times and unknown gets the mark of an abort.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from kafka import TopicPartition
from kafka.admin import AbortTransactionSpec
from kafka.errors import AuthorizationError, IncompatibleBrokerVersion, KafkaError, UnsupportedVersionError

from engine.errors import EventLogError
from engine.eventlog.acl_plan import OFFSETS_TOPIC
from engine.eventlog.base import Partition

logger = logging.getLogger(__name__)

_ONGOING: Final = "Ongoing"
_BEING_ENDED: Final = {"PrepareCommit", "PrepareAbort", "PrepareEpochFence"}
_UNABLE: Final = (AuthorizationError, UnsupportedVersionError, IncompatibleBrokerVersion)
"""Of this client's rights, or of a broker that is too old (before 3.0): another attempt would not change it."""
_REPEAT_S: Final = 60.0
"""Time between two reports of a transaction that this client may not end."""


class OpenTransaction(NamedTuple):
    """A transaction as its partition knows it."""

    partition: Partition
    producer_id: int
    epoch: int
    coordinator_epoch: int
    start: int
    """Offset of its first record, up to which committed records are read."""


@dataclass(frozen=True, slots=True)
class Word:
    """A coordinator's word about a producer."""

    transactional_id: str
    epoch: int
    state: str
    partitions: frozenset[Partition]

    def holds(self, transaction: OpenTransaction) -> bool:
        """Whether this transaction is under way: its producer may go on, and a time limit ends it."""
        return self.state == _ONGOING and self.epoch == transaction.epoch and transaction.partition in self.partitions

    def knows(self, transaction: OpenTransaction) -> bool:
        """Whether this transaction is under way, or being ended."""
        return self.state in _BEING_ENDED or self.holds(transaction)


@dataclass(slots=True)
class Unended:
    """The rule for open transactions, in one place."""

    fence: Callable[[str], None]
    """Takes a transactional id over, which ends what its coordinator knows to be open."""
    is_ours: Callable[[str], bool]
    """Whether a transactional id belongs to a worker of this deployment."""
    bootstrap_servers: str
    time_limit_s: float
    """The longest that a transaction may last (`kafka.transaction_timeout_s`)."""
    own: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Epoch and transactional id of this process's own producers, by producer id. What is open there under an older
    epoch is unknown to the coordinator, which ends what it knows before it gives out an epoch."""
    _seen_s: dict[OpenTransaction, float] = field(default_factory=dict)
    """When each open transaction was first seen."""
    _reported_s: dict[OpenTransaction, float] = field(default_factory=dict)

    def end(self, admin: Any, inherited: Collection[Partition], shared: Collection[Partition]) -> set[str]:
        """End what is open and has nobody to end it.

        Args:
            admin: the library's admin client.
            inherited: partitions whose only writer this process is from now on: whatever is open there is ended.
            shared: partitions that others write to at the same time: only what no coordinator knows is ended there.

        Returns:
            This process's own transactional ids under which something stays open that it may not end. What they send to
            that partition would become a part of it.

        Raises:
            KafkaError: a partition cannot be looked at now, or one of this process's own was not ended.
        """
        transactions = _open_on(admin, [*inherited, *shared])
        now_s = time.monotonic()
        self._seen_s = {transaction: self._seen_s.get(transaction, now_s) for transaction in transactions}
        old = [t for t in transactions if t.producer_id in self.own and t.epoch < self.own[t.producer_id][0]]
        stuck = {self.own[t.producer_id][1] for t in old if not self._write_mark(admin, t)}
        others = [t for t in transactions if t.producer_id not in self.own]
        if others:
            try:
                self._end_others(admin, others, inherited)
            except (KafkaError, EventLogError) as error:
                logger.warning("transactions that other workers left open cannot be ended now: %s", error)
        return stuck

    def _end_others(
        self, admin: Any, transactions: Collection[OpenTransaction], inherited: Collection[Partition]
    ) -> None:
        words = _words(admin, {transaction.producer_id for transaction in transactions})
        for transactional_id in sorted(_abandoned(transactions, words, inherited)):
            logger.info("ending the transaction that %s left open", transactional_id)
            self.fence(transactional_id)
        unknown = [t for t in transactions if not (t.producer_id in words and words[t.producer_id].knows(t))]
        if unknown:
            still_open = set(_open_on(admin, [transaction.partition for transaction in unknown]))
            for transaction in still_open.intersection(unknown):
                self._end_unknown(admin, transaction, words.get(transaction.producer_id), inherited)

    def _end_unknown(
        self, admin: Any, transaction: OpenTransaction, word: Word | None, inherited: Collection[Partition]
    ) -> None:
        """End what no coordinator knows, if it is of a worker of ours; otherwise say how it is ended."""
        if word is None:
            # No word is none against it: this client may not see that id, or its coordinator is moving.
            if time.monotonic() - self._seen_s[transaction] > 2 * self.time_limit_s:
                self._report(transaction, "no coordinator told this client whose it is")
        elif not (transaction.partition in inherited or self.is_ours(word.transactional_id)):
            if transaction.partition.topic != OFFSETS_TOPIC:  # there it holds back that group's positions, not ours
                self._report(transaction, f"{word.transactional_id!r} is not of this group")
        else:
            if word.epoch == transaction.epoch and transaction not in self._reported_s:
                self.fence(word.transactional_id)  # its producer may live, and would go on in it
            self._write_mark(admin, transaction)

    def _write_mark(self, admin: Any, transaction: OpenTransaction) -> bool:
        """Write the mark of an abort; False where this client may not."""
        topic_partition = TopicPartition(*transaction.partition)
        mark = AbortTransactionSpec(
            topic_partition, transaction.producer_id, transaction.epoch, max(transaction.coordinator_epoch, 0)
        )
        try:
            admin.abort_transaction(mark)
        except _UNABLE as error:
            self._report(transaction, f"this client may not ({type(error).__name__})")
            return False
        self._reported_s.pop(transaction, None)
        logger.warning(
            "topic %r partition %d: ended a transaction that was open from offset %d and that its coordinator did not"
            " know (producer %d, epoch %d)",
            *transaction.partition,
            transaction.start,
            transaction.producer_id,
            transaction.epoch,
        )
        return True

    def _report(self, transaction: OpenTransaction, reason: str) -> None:
        """Say, once a minute, what is open and how an operator ends it."""
        now_s = time.monotonic()
        if now_s - self._reported_s.get(transaction, -_REPEAT_S) < _REPEAT_S:
            return
        self._reported_s[transaction] = now_s
        topic, number = transaction.partition
        logger.error(
            "topic %r partition %d: a transaction is open from offset %d that its coordinator does not know; no time"
            " limit ends it, and nobody reads what comes after it. It was not ended here: %s. End it with the rights of"
            " an administrator: kafka-transactions.sh --bootstrap-server %s abort --topic %s --partition %d"
            " --start-offset %d",
            topic,
            number,
            transaction.start,
            reason,
            self.bootstrap_servers,
            topic,
            number,
            transaction.start,
        )


def _open_on(admin: Any, partitions: Collection[Partition]) -> list[OpenTransaction]:
    """What is open on these partitions, as far as this client may look."""
    transactions: list[OpenTransaction] = []
    for topic in sorted({partition.topic for partition in partitions}):
        of_topic = [TopicPartition(*partition) for partition in partitions if partition.topic == topic]
        try:
            states = admin.describe_producers(of_topic)
        except _UNABLE as error:
            # Few may read the broker's own topic; a member whose positions are held back says so (`StallDetector`).
            logger.log(
                logging.DEBUG if topic == OFFSETS_TOPIC else logging.WARNING,
                "topic %r: open transactions cannot be seen there (%s); give this client the right to read it",
                topic,
                type(error).__name__,
            )
            continue
        transactions += [
            OpenTransaction(
                Partition(*partition),
                producer.producer_id,
                producer.producer_epoch,
                producer.coordinator_epoch,
                producer.current_transaction_start_offset,
            )
            for partition, state in states.items()
            for producer in state.active_producers
            if producer.current_transaction_start_offset >= 0
        ]
    return transactions


def _words(admin: Any, producer_ids: Collection[int]) -> dict[int, Word]:
    """The coordinators' words about these producers, without those that they do not know, or do not tell of."""
    listings = admin.list_transactions(producer_id_filters=producer_ids)
    ids = {listing.transactional_id for of_broker in listings.values() for listing in of_broker}
    return {
        described.producer_id: Word(
            transactional_id,
            described.producer_epoch,
            described.state.value,
            frozenset(Partition(*partition) for partition in described.topic_partitions),
        )
        for transactional_id, described in admin.describe_transactions(ids).items()
    }


def _abandoned(
    transactions: Collection[OpenTransaction], words: Mapping[int, Word], inherited: Collection[Partition]
) -> set[str]:
    """Transactional ids whose producers left something open on partitions that are another's now."""
    return {
        words[transaction.producer_id].transactional_id
        for transaction in transactions
        if transaction.partition in inherited
        and transaction.producer_id in words
        and words[transaction.producer_id].holds(transaction)
    }
