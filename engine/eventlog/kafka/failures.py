"""The client's errors, in our words."""

import contextlib
import ssl
from collections.abc import Iterator

from kafka.errors import KafkaError, KafkaTimeoutError, SaslAuthenticationFailedError, UnsupportedSaslMechanismError

from engine.errors import EventLogError
from engine.settings.sections import KafkaSettings


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise the client's errors as EventLogError."""
    try:
        yield
    except (KafkaError, RuntimeError) as error:  # a closed or broken network thread answers with the second
        raise EventLogError(
            f"Kafka: {doing} failed: {describe(error)}; if it comes again, look at the broker's log and this client's"
            " rights"
        ) from error


def describe(error: Exception) -> str:
    """What the client says, in words even where it says nothing."""
    if isinstance(error, KafkaTimeoutError) and not any(error.args):
        return "no answer in time"
    return str(error) or type(error).__name__


def is_permanent(error: Exception) -> bool:
    """Whether trying again would only repeat it."""
    return isinstance(error, SaslAuthenticationFailedError | UnsupportedSaslMechanismError) or isinstance(
        error.__context__, ssl.SSLCertVerificationError
    )


def explain_unavailable(settings: KafkaSettings, error: Exception) -> str:
    """Why no broker could be used, and the setting to look at."""
    where = f"Kafka at {settings.bootstrap_servers}"
    tls_error = error.__context__
    if isinstance(error, SaslAuthenticationFailedError):
        return (
            f"{where} refused the login of {settings.sasl_username!r} by {settings.sasl_mechanism};"
            f" check kafka.sasl_username and kafka.sasl_password ({error})"
        )
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"{where} does not offer {settings.sasl_mechanism}; change kafka.sasl_mechanism ({error})"
    if isinstance(tls_error, ssl.SSLCertVerificationError):
        return (
            f"{where} shows a certificate that cannot be trusted: {tls_error.verify_message};"
            " set kafka.ssl_ca_file to the authority that signed it"
        )
    if isinstance(tls_error, ssl.SSLError):
        return f"{where}: no TLS connection ({tls_error}); does kafka.security_protocol fit the listener?"
    return (
        f"no answer from {where} within {settings.connect_timeout_s:g} s ({describe(error)});"
        " check kafka.bootstrap_servers and kafka.security_protocol"
    )
