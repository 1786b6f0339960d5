"""Translation of the client's errors to those of `engine.errors`, with the setting to look at."""

import contextlib
import ssl
from collections.abc import Iterator

from kafka.errors import (
    AuthorizationError,
    FencedInstanceIdError,
    InvalidProducerEpochError,
    InvalidRecordError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    ProducerFencedError,
    RecordListTooLargeError,
    SaslAuthenticationFailedError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
    UnsupportedSaslMechanismError,
)

from engine.errors import EventLogError, RightMissingError
from engine.eventlog.kafka.tokens import TokenMissingError, TokenRefusedError
from engine.settings.sections import KafkaSettings


@contextlib.contextmanager
def translated(activity: str) -> Iterator[None]:
    """Raise the client's errors as EventLogError, which names the activity that failed."""
    try:
        yield
    except AuthorizationError as error:
        raise RightMissingError(
            f"Kafka: {activity} failed: {describe(error)}; expected the right to it; give it to this client's user by"
            " ACLs for topics, group and transactional ids"
        ) from error
    except (KafkaError, RuntimeError) as error:  # the second comes from a network thread that is closed or broken
        raise EventLogError(
            f"Kafka: {activity} failed: {describe(error)}; if it fails again, look at the broker's log and this"
            " client's rights"
        ) from error


def describe(error: Exception) -> str:
    """The client's message; in words even where it has none."""
    if isinstance(error, KafkaTimeoutError) and not any(error.args):
        return "no answer in time"
    if isinstance(error, FencedInstanceIdError | ProducerFencedError | InvalidProducerEpochError):
        return (
            f"{str(error) or type(error).__name__}: another worker took this one's place, under the same name; give"
            " each worker a kafka.static_member of its own, or none"
        )
    if isinstance(error, UnsupportedCodecError):
        return f"{error}; records compressed by lz4, zstd or snappy need: pip install 'headrace[compression]'"
    return str(error) or type(error).__name__


def is_permanent(error: Exception) -> bool:
    """True for a failure that another attempt would only repeat."""
    if isinstance(error, SaslAuthenticationFailedError | UnsupportedSaslMechanismError):
        return True
    return isinstance(error.__context__, ssl.SSLCertVerificationError) or _is_about_our_certificate(error)


def _is_about_our_certificate(error: Exception) -> bool:
    """True for a broker's alert on this client's certificate; it comes after the handshake, as the library's text."""
    return "_ALERT_" in str(error) and any(word in str(error) for word in ("CERTIFICATE", "UNKNOWN_CA"))


def is_refusal(error: Exception | None) -> bool:
    """True for a record that the broker, or the client before it, takes as little at the next attempt."""
    return isinstance(
        error, MessageSizeTooLargeError | RecordListTooLargeError | InvalidRecordError | TopicAuthorizationFailedError
    )


def explain_unavailable(settings: KafkaSettings, error: Exception) -> str:
    """The reason why no broker could be used, and the setting to look at."""
    where = f"Kafka at {settings.bootstrap_servers}"
    explained = _explain_login(settings, where, error) or _explain_tls(settings, where, error)
    return explained or (
        f"no answer from {where} within {settings.connect_timeout_s:g} s ({describe(error)});"
        " check kafka.bootstrap_servers and kafka.security_protocol"
    )


def _explain_login(settings: KafkaSettings, where: str, error: Exception) -> str | None:
    if isinstance(error, TokenRefusedError):
        return (
            f"no token for {where}: {error}; check kafka.sasl_username and kafka.sasl_password, which are this client's"
            " id and secret, and kafka.sasl_oauth_scope"
        )
    if isinstance(error, TokenMissingError):
        return f"no token for {where}: {error}; check kafka.sasl_oauth_token_url or kafka.sasl_oauth_token_file"
    if isinstance(error, SaslAuthenticationFailedError):
        return (
            f"{where} refused the login of {settings.sasl_username!r} by {settings.sasl_mechanism};"
            f" check kafka.sasl_username and kafka.sasl_password ({error})"
        )
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"{where} does not offer {settings.sasl_mechanism}; change kafka.sasl_mechanism ({error})"
    return None


def _explain_tls(settings: KafkaSettings, where: str, error: Exception) -> str | None:
    tls_error = error.__context__
    if isinstance(tls_error, ssl.SSLCertVerificationError):
        return (
            f"{where} has a certificate that cannot be trusted: {tls_error.verify_message};"
            " set kafka.ssl_ca_file to the certificate of the authority that signed it"
        )
    if _is_about_our_certificate(error) and settings.ssl_certificate_file is None:
        return (
            f"{where} wants a certificate of this client; set kafka.ssl_certificate_file and kafka.ssl_key_file"
            f" ({error})"
        )
    if _is_about_our_certificate(error):
        return (
            f"{where} refused the certificate in {settings.ssl_certificate_file}; set kafka.ssl_certificate_file to one"
            f" that is valid and that an authority of the brokers signed ({error})"
        )
    if isinstance(tls_error, ssl.SSLError):
        return f"{where}: no TLS connection ({tls_error}); is kafka.security_protocol that of the listener?"
    return None
