"""Every error Headrace raises on purpose.

    HeadraceError
    ├── SettingsError          a setting is unknown, missing or out of range
    ├── DataError              recorded interactions or items cannot be read, or are unfit for the command
    ├── RunFolderError         a training's folder holds another training, one that has ended, or one under way
    ├── MissingExtraError      the command needs an optional dependency that is not installed
    ├── RequestError           a request for lists is out of range, or its parts do not fit together
    ├── MessageError           a message cannot be decoded
    ├── ReleaseError           a release bundle cannot be used
    │   ├── DamagedReleaseError    a file is missing, cut short or changed since it was written
    │   └── UnfitReleaseError      the bundle is whole, but does not match the contract or this engine
    └── EventLogError          the event log (Kafka) failed
        ├── BrokerUnavailableError  no broker answered, or it refused the login
        │   └── LoginRefusedError       it refused the login, or its certificate cannot be trusted
        ├── RightMissingError       this client lacks a right
        ├── ChangelogError          a window on the changelog cannot be read
        │   └── NewerWindowError        it was written by a later version of this engine
        ├── UnsupportedClientError  the installed Kafka client lacks members that the engine uses
        └── DeliveryError           a record was not accepted, or not within its time limit
            └── RecordRefusedError      the broker takes it as little at the next attempt

Errors of other libraries are translated where these are called. The command line prints the message of a HeadraceError
and nothing else, so a message names the setting or field, what was found there, what was expected and the way out.
"""


class HeadraceError(Exception):
    """Base of all errors above."""


class SettingsError(HeadraceError):
    """A setting is unknown, missing or out of range."""


class DataError(HeadraceError):
    """Recorded interactions or items cannot be read, or are unfit for the command."""


class RunFolderError(HeadraceError):
    """A training's folder holds another training, one that has ended, or one under way."""


class MissingExtraError(HeadraceError):
    """The command needs an optional dependency that is not installed."""


class RequestError(HeadraceError):
    """A request for lists is out of range, or its parts do not fit together."""


class MessageError(HeadraceError):
    """A message cannot be decoded."""


class ReleaseError(HeadraceError):
    """A release bundle cannot be used."""


class DamagedReleaseError(ReleaseError):
    """A file of the bundle is missing, cut short or changed since it was written."""


class UnfitReleaseError(ReleaseError):
    """The bundle is whole, but does not match the contract or this engine."""


class EventLogError(HeadraceError):
    """The event log failed."""


class BrokerUnavailableError(EventLogError):
    """No broker answered, or it refused the login."""


class LoginRefusedError(BrokerUnavailableError):
    """A broker refused the login, or its certificate cannot be trusted: another attempt would only repeat it."""


class RightMissingError(EventLogError):
    """This client lacks a right to a topic, the group, a transactional id or the cluster."""


class ChangelogError(EventLogError):
    """A window on the changelog cannot be read."""


class NewerWindowError(ChangelogError):
    """A window on the changelog was written by a later version of this engine."""


class UnsupportedClientError(EventLogError):
    """The installed Kafka client lacks members that the engine uses."""


class DeliveryError(EventLogError):
    """A record was not accepted by the log, or not within its time limit."""


class RecordRefusedError(DeliveryError):
    """A record that the broker takes as little at the next attempt: too large, of the wrong form, or without the right.

    Args:
        message: names the topic and the reason.
        topic: that refused it.
    """

    def __init__(self, message: str, topic: str) -> None:
        super().__init__(message)
        self.topic = topic
