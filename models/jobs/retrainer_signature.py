"""The retrainer's signature (`retrain.signing_key`), of releases that the gate let pass.

It is the last step before the announcement, as the gate's decision is in the manifest that is signed. A retrainer that
was killed after it withdraws it, as the decision may be another one by then.
"""

import logging
from pathlib import Path
from typing import Final

from engine.errors import SettingsError
from engine.releases import signing
from engine.settings.sections import Settings

logger = logging.getLogger(__name__)

_SETTING: Final = "retrain.signing_key"


def check(settings: Settings) -> None:
    """Refuse a key by which no worker would serve, before anything is trained.

    Raises:
        SettingsError: the key cannot be read, or is none of `releases.public_keys` where a signature is required.
        MissingExtraError: the extra `signing` is not installed.
    """
    key, releases = settings.retrain.signing_key, settings.releases
    if key is None:
        if releases.require_signature:
            logger.warning(
                "releases.require_signature without %s: a release that passes the gate waits until it is signed"
                " (`headrace releases sign`) and `headrace retrain` runs again",
                _SETTING,
            )
        return
    public_key = signing.public_key(key, _SETTING)
    if releases.require_signature and public_key not in releases.public_keys:
        raise SettingsError(
            f"{_SETTING}: found the private key of {public_key}, expected that of one of releases.public_keys, by which"
            " workers serve; add it there, or name another key"
        )


def withdraw(bundle: Path, settings: Settings) -> None:
    """Take the signature out of a bundle that is not announced yet.

    Raises:
        ReleaseError: the signatures of the bundle cannot be read.
    """
    if settings.retrain.signing_key is not None:
        signing.withdraw(bundle, signing.public_key(settings.retrain.signing_key, _SETTING))


def sign(bundle: Path, settings: Settings) -> None:
    """Sign a bundle, where there is a key.

    Raises:
        ReleaseError: the bundle cannot be read.
    """
    if settings.retrain.signing_key is not None:
        signing.sign(bundle, settings.retrain.signing_key, _SETTING)
