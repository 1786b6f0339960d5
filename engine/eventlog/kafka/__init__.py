"""The event log on Apache Kafka: the only package that talks to the Kafka client (kafka-python 3).

A session owns its consumer and its producer, because they commit together: in one transaction, or (`kafka.delivery`)
one after the other.

Faults of the client library, and how this package works around them:

- It calls rebalance listeners on its I/O thread, where a commit would be a deadlock. `listener.Listener` runs them on a
  thread of their own while `poll` waits for them, so that to the worker they are a part of `poll`.
- A dead address, a wrong password and an unknown authority all end in "Unable to bootstrap" after the time limit.
  `client.Client` remembers the reason, and fails at once where waiting cannot help.
- It loses the answer to its request to join a group when that comes between two polls
  (`listener.keep_pending_join`).
- It leaks threads and sockets when a constructor fails, a connection cannot be made or is closed while it is written
  to, or a producer is closed with records in flight; `KafkaLog`, `client` and `output.Output` clean up.
- Some of this needs private members of the client, which `client_surface` lists and checks.
"""

from engine.eventlog.kafka.client_version import unsupported

try:
    from engine.eventlog.kafka.log import KafkaLog
except ImportError as error:  # the client lacks a whole module, or a name in one
    if (error.name or "").partition(".")[0] != "kafka":
        raise
    raise unsupported(str(error)) from error

__all__ = ["KafkaLog"]
