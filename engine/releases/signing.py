"""Ed25519 signatures of bundles: who vouches for a release. Needs the extra `signing`.

`release.sig` in a bundle holds signatures of its manifest, which has the checksums of all other files. It is no part of
the manifest, so that a bundle can be signed after it was written, and by several keys while keys change.

Source: RFC 8032, Edwards-Curve Digital Signature Algorithm.
"""

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from engine import contract
from engine.errors import DamagedReleaseError, MissingExtraError, SettingsError, UnfitReleaseError
from engine.releases.bundle_files import SIGNATURE_FILE
from engine.settings.sections import ReleaseSettings

_PURPOSE: Final = b"headrace release manifest 1\n"
"""Comes before the manifest, so that a signature of something else is none of a release."""
_MAX_BYTES: Final = 1 << 16


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """One signature of a manifest."""

    public_key: str
    """Base64 of the 32 bytes of the key."""
    signature: str
    """Base64 of the 64 bytes of the signature."""


class SignatureFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `release.sig`."""

    schema: int = 1
    algorithm: str = "ed25519"
    signatures: list[Signature] = []


def generate(path: Path) -> str:
    """Write a new private key, readable by its owner alone; returns the public key for `releases.public_keys`.

    Raises:
        SettingsError: the file exists, or cannot be written.
    """
    ed25519, serialization = _library()
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
    except OSError as error:
        raise SettingsError(
            f"--out: {path} cannot be written ({error.strerror}), expected a new file; name another one"
        ) from error
    return _encoded(key.public_key().public_bytes_raw())


def public_key(key_file: Path, subject: str = "--key") -> str:
    """The public key of a private one.

    Args:
        key_file: the private key.
        subject: the option or setting that names it, for messages.

    Raises:
        SettingsError: the key cannot be read.
    """
    return _encoded(_private_key(key_file, subject).public_key().public_bytes_raw())


def sign(bundle: Path, key_file: Path, subject: str = "--key") -> str:
    """Add a signature to a bundle, in place of an earlier one by the same key; returns the public key.

    Args:
        bundle: its folder.
        key_file: the private key.
        subject: see `public_key`.

    Raises:
        SettingsError: the key cannot be read.
        DamagedReleaseError: the bundle cannot be read.
    """
    key = _private_key(key_file, subject)
    signer_key = _encoded(key.public_key().public_bytes_raw())
    signature = _encoded(key.sign(_PURPOSE + _manifest(bundle)))
    others = [other for other in _signatures(bundle) if other.public_key != signer_key]
    _write(bundle, [*others, Signature(public_key=signer_key, signature=signature)])
    return signer_key


def withdraw(bundle: Path, signer_key: str) -> None:
    """Take the signature by this public key out of a bundle, if there is one.

    Raises:
        DamagedReleaseError: the signatures cannot be read.
    """
    signatures = _signatures(bundle)
    others = [other for other in signatures if other.public_key != signer_key]
    if others:
        _write(bundle, others)
    elif signatures:
        (bundle / SIGNATURE_FILE).unlink()


def _write(bundle: Path, signatures: list[Signature]) -> None:
    """Replace the signatures of a bundle, in one step."""
    partial = bundle.parent / f".{bundle.name}.{SIGNATURE_FILE}.partial-{os.getpid()}"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(SignatureFile(signatures=signatures)), indent=1))
    partial.replace(bundle / SIGNATURE_FILE)


def check(bundle: Path, settings: ReleaseSettings) -> None:
    """Refuse a bundle that none of the settings' keys has signed, where a signature is required.

    Raises:
        UnfitReleaseError: no key of `releases.public_keys` has signed it.
        DamagedReleaseError: the signatures or the manifest cannot be read.
        MissingExtraError: the extra `signing` is not installed.
    """
    if settings.require_signature and signer(bundle, settings.public_keys) is None:
        keys = [signature.public_key for signature in _signatures(bundle)]
        raise UnfitReleaseError(
            f"release {bundle}: found {'signatures by ' + ', '.join(keys) if keys else 'no signature'}, expected a"
            " valid one by a key of releases.public_keys (releases.require_signature); sign it (`headrace releases"
            " sign`), or add the key"
        )


def signer(bundle: Path, public_keys: Sequence[str]) -> str | None:
    """The first of the public keys by which the bundle has a valid signature.

    Raises:
        DamagedReleaseError: the signatures or the manifest cannot be read.
        MissingExtraError: the extra `signing` is not installed.
    """
    manifest = _PURPOSE + _manifest(bundle)
    by_key = {signature.public_key: signature.signature for signature in _signatures(bundle)}
    return next((key for key in public_keys if key in by_key and _is_valid(key, by_key[key], manifest)), None)


def _is_valid(public_key: str, signature: str, message: bytes) -> bool:
    ed25519, _ = _library()
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra

    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
        key.verify(base64.b64decode(signature, validate=True), message)
    except (ValueError, InvalidSignature):
        return False
    return True


def _manifest(bundle: Path) -> bytes:
    try:
        return (bundle / contract.MANIFEST_FILE).read_bytes()
    except OSError as error:
        raise DamagedReleaseError(
            f"release {bundle}: {contract.MANIFEST_FILE} cannot be read ({error.strerror}), expected the folder of a"
            " release; name another, or copy the bundle again"
        ) from error


def _signatures(bundle: Path) -> list[Signature]:
    path = bundle / SIGNATURE_FILE
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES)  # of a larger one the beginning, which is no JSON
        return msgspec.json.decode(content, type=SignatureFile).signatures
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:  # also what msgspec raises
        raise DamagedReleaseError(
            f"release {bundle}: {SIGNATURE_FILE} cannot be read ({error}), expected what `headrace releases sign`"
            " writes; remove it and sign the release again"
        ) from error


def _private_key(path: Path, subject: str) -> Any:
    ed25519, serialization = _library()
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(
            f"{subject}: {path} cannot be read as a private key ({error}), expected a file that `headrace releases"
            " keygen` writes; name it"
        ) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise SettingsError(
            f"{subject}: {path} holds a {type(key).__name__}, expected an Ed25519 key; make one (`headrace releases"
            " keygen`)"
        )
    return key


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "signatures of releases need cryptography, which is not installed: pip install 'headrace[signing]'"
        ) from error
    return ed25519, serialization


def _encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
