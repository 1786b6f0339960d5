"""Tokens for OAUTHBEARER: from a file that somebody else renews, or from an identity provider."""

import json
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kafka.errors import KafkaError, SaslAuthenticationFailedError
from kafka.net.sasl.oauth import AbstractTokenProvider

from engine.errors import SettingsError
from engine.settings.secret_files import secret
from engine.settings.sections import KafkaSettings

_TOKEN_TIMEOUT_S: Final = 5.0
"""Time limit of a request for a token, during which the client does nothing else."""
_TOKEN_SHARE: Final = 0.8
"""Share of a token's lifetime after which it is renewed, as in Kafka's own client."""
_TOKEN_LIFE_S: Final = 300.0
"""Life of a token whose answer names none."""
_REFUSED: Final = range(400, 500)
_LOCAL_HOSTS: Final = {"127.0.0.1", "localhost", "::1"}


class TokenRefusedError(SaslAuthenticationFailedError):  # type: ignore[misc]
    """The identity provider refuses this client."""


class TokenMissingError(KafkaError):  # type: ignore[misc]
    """The identity provider, or the file, gives no token now."""


class Tokens(AbstractTokenProvider):  # type: ignore[misc]
    """The current token, renewed when most of its lifetime is over; safe for any thread.

    Args:
        source: gives a token, and the seconds that it lives.
    """

    def __init__(self, source: Callable[[], tuple[str, float]]) -> None:
        super().__init__()
        self._source = source
        self._lock = threading.Lock()
        self._token = ""
        self._renew_s = 0.0

    def token(self) -> str:
        """The token to log in with."""
        with self._lock:
            if not self._token or time.monotonic() >= self._renew_s:
                self._token, life_s = self._source()
                self._renew_s = time.monotonic() + _TOKEN_SHARE * life_s
            return self._token


def token_provider(settings: KafkaSettings) -> Tokens | None:
    """Tokens of OAUTHBEARER; None with another mechanism, or without SASL."""
    if not settings.security_protocol.startswith("SASL") or settings.sasl_mechanism != "OAUTHBEARER":
        return None
    if settings.sasl_oauth_token_url is not None:
        needed_secret(settings, "sasl_password")  # rather now than at the first login
    return Tokens(_token_source(settings))


def _token_source(settings: KafkaSettings) -> Callable[[], tuple[str, float]]:
    """The source of tokens: a file that another program renews, or OAuth's client-credentials grant (RFC 6749, 4.4)."""
    path, url = settings.sasl_oauth_token_file, settings.sasl_oauth_token_url
    if (path is None) == (url is None):
        raise SettingsError(
            f"settings 'kafka.sasl_oauth_token_url' and 'kafka.sasl_oauth_token_file': found {url!r} and"
            f" {path and str(path)!r}, expected one of them with kafka.sasl_mechanism OAUTHBEARER; set the address of"
            " the identity provider, or a file with a token"
        )
    if path is not None:
        return lambda: (_token_in(path), 0.0)
    address = _checked_url(str(url))
    return lambda: _requested_token(settings, address)


def _checked_url(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL_HOSTS):
        return url
    raise SettingsError(
        f"setting 'kafka.sasl_oauth_token_url': found {url!r}, expected an address that begins with https://, as a"
        " secret is sent there; name that of the identity provider"
    )


def _token_in(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TokenMissingError(f"no token in {path} ({error}); see kafka.sasl_oauth_token_file") from error


def _requested_token(settings: KafkaSettings, url: str) -> tuple[str, float]:
    """A new token of the identity provider, and its life in seconds."""
    form = {
        "grant_type": "client_credentials",
        "client_id": settings.sasl_username or "",
        "client_secret": needed_secret(settings, "sasl_password"),
    }
    if settings.sasl_oauth_scope:
        form["scope"] = settings.sasl_oauth_scope
    request = urllib.request.Request(url, urllib.parse.urlencode(form).encode())  # noqa: S310 - checked by _checked_url
    try:
        with urllib.request.urlopen(request, timeout=_TOKEN_TIMEOUT_S, context=_trust(settings)) as answer:  # noqa: S310
            content = json.loads(answer.read())
            return str(content["access_token"]), float(content.get("expires_in", _TOKEN_LIFE_S))
    except urllib.error.HTTPError as error:
        kind = TokenRefusedError if error.code in _REFUSED else TokenMissingError
        raise kind(f"{url} answered {error.code} {error.reason}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TokenMissingError(f"{url} gave no token ({error})") from error


def _trust(settings: KafkaSettings) -> ssl.SSLContext:
    """The system's authorities, and that of the brokers."""
    context = ssl.create_default_context()
    if settings.ssl_ca_file is not None:
        context.load_verify_locations(settings.ssl_ca_file)
    return context


def needed_secret(settings: KafkaSettings, name: str) -> str:
    """A secret of the section [kafka] that must be there.

    Raises:
        SettingsError: it is not, or cannot be read.
    """
    value = secret(settings, "kafka", name)
    if not value:
        raise missing(settings, name)
    return value


def missing(settings: KafkaSettings, name: str) -> SettingsError:
    """The error for a setting that a login needs."""
    return SettingsError(
        f"setting 'kafka.{name}' is not set, but kafka.security_protocol is {settings.security_protocol!r}:"
        " set it, or choose a protocol without SASL"
    )
