"""Login and encryption of every client, from the section [kafka]; secrets come from settings or from files.

A file of a secret, such as a container's secret or one that an agent renews, is read for each new client, so that a
password that was changed there needs no restart.
"""

import logging
import ssl
from typing import Any

from engine.errors import SettingsError
from engine.eventlog.kafka.client import TlsSocket
from engine.eventlog.kafka.tokens import missing, needed_secret, token_provider
from engine.settings.secret_files import secret
from engine.settings.sections import KafkaSettings

logger = logging.getLogger(__name__)


def tls_options(settings: KafkaSettings) -> dict[str, Any]:
    """The protocol of every client and, with TLS, what it trusts and shows.

    Raises:
        SettingsError: a certificate or key cannot be used.
    """
    options: dict[str, Any] = {"security_protocol": settings.security_protocol}
    if settings.security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
    return options


class Login:
    """The login of every client of a log; a secret's file is read again for each.

    Raises:
        SettingsError: the login is incomplete, or its secret cannot be read.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._tokens = token_provider(settings)
        self._last = self._read()

    def options(self) -> dict[str, Any]:
        """Options of a new client, empty without SASL; as before where the secret cannot be read just now."""
        try:
            self._last = self._read()
        except SettingsError as error:
            logger.warning("the last known secret is used: %s", error)
        return self._last

    def _read(self) -> dict[str, Any]:
        settings = self._settings
        if not settings.security_protocol.startswith("SASL"):
            return {}
        if not settings.sasl_mechanism:
            raise missing(settings, "sasl_mechanism")
        if self._tokens is not None:
            return {"sasl_mechanism": settings.sasl_mechanism, "sasl_oauth_token_provider": self._tokens}
        if not settings.sasl_username:
            raise missing(settings, "sasl_username")
        return {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": needed_secret(settings, "sasl_password"),
        }


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ssl_ca_file)
    except OSError as error:  # a missing file, or one without certificates (ssl.SSLError is an OSError)
        raise SettingsError(
            f"setting 'kafka.ssl_ca_file': found {str(settings.ssl_ca_file)!r}, which cannot be used ({error}),"
            " expected certificates in PEM form; name the file of the authority that signed the broker's"
        ) from error
    context.sslsocket_class = TlsSocket
    _show_certificate(context, settings)
    return context


def _show_certificate(context: ssl.SSLContext, settings: KafkaSettings) -> None:
    """Show this client's own certificate, where there is one."""
    certificate, key = settings.ssl_certificate_file, settings.ssl_key_file
    if certificate is None:
        if key is not None:
            raise _missing_beside(settings, "ssl_certificate_file", "ssl_key_file")
        return
    try:
        context.load_cert_chain(certificate, key, lambda: secret(settings, "kafka", "ssl_key_password") or "")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"settings 'kafka.ssl_certificate_file' and 'kafka.ssl_key_file': found {str(certificate)!r} and"
            f" {str(key) if key else 'none'!r}, which cannot be used ({error}), expected a certificate and its key in"
            " PEM form, both in the first where the second is not set; name the right files, and"
            " kafka.ssl_key_password_file where the key has a password"
        ) from error


def _missing_beside(settings: KafkaSettings, name: str, other: str) -> SettingsError:
    return SettingsError(
        f"setting 'kafka.{name}' is not set, but kafka.{other} is {str(getattr(settings, other))!r}: set both, or none"
    )
