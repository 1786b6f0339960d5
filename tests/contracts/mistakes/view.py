"""Mistakes in the settings of the HTTP server, in API keys, and in requests."""

from pathlib import Path

import pytest

from engine.catalogue.actions import Actions
from engine.cli import serve
from engine.errors import MissingExtraError, RequestError, SettingsError
from engine.eventlog.memory.log import MemoryLog
from engine.metrics import ServeMetrics
from engine.settings.sections import ServeSettings, Settings, WindowSettings
from engine.view import api_keys
from engine.view.http_messages import SessionEvent
from engine.view.requests import Responder, check_events
from engine.view.standby import Standby
from tests.contracts.mistakes.row import Act, Row

SMALL = Settings(windows=WindowSettings(max_users=10))


def server(**changes: object) -> Act:
    def act(_folder: Path) -> object:
        from engine.view.http_server import HttpServer  # noqa: PLC0415 - needs the extra

        settings = SMALL.model_copy(update={"serve": ServeSettings.model_validate({"port": 0} | changes)})
        return HttpServer(settings, MemoryLog())

    return act


def without_the_extra(_folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serve, "find_spec", lambda _name: None)
        serve.require_extra()


def twice(folder: Path) -> None:
    for _ in range(2):
        api_keys.add(folder / "keys.toml", "shop", ["read"], None)


def no_keys(folder: Path) -> object:
    (folder / "keys.toml").write_text("[keys.shop]\nhash = 'secret'\nscopes = ['read']\n")
    return api_keys.ApiKeys(folder / "keys.toml")


ROWS = [
    Row(
        "a server for other machines without keys",
        server(host="0.0.0.0"),  # noqa: S104 - that is the mistake
        SettingsError,
        r"serve\.host | '0\.0\.0\.0' | expected keys | `headrace serve-key`.* or serve\.without_keys",
        needs="litestar",
    ),
    Row(
        "a server on an address of another machine",
        server(host="203.0.113.1", without_keys=True),
        SettingsError,
        r"serve\.host '203\.0\.113\.1' and serve\.port 0 | cannot be listened on | - | choose another port",
        needs="litestar",
    ),
    Row(
        "a server with a certificate that is not there",
        server(tls_certificate_file="none.pem"),
        SettingsError,
        r"serve\.tls_certificate_file none\.pem | No such file | expected a certificate chain | correct the paths",
        needs="litestar",
    ),
    Row(
        "a server without its extra",
        without_the_extra,
        MissingExtraError,
        r"litestar | not installed | - | pip install 'headrace\[serve\]'",
    ),
    Row(
        "a file of keys that are none",
        no_keys,
        SettingsError,
        r"serve\.keys_file .*keys\.toml | cannot be read | expected tables \[keys\.NAME\] | `headrace serve-key`",
    ),
    Row(
        "a key with a name that is none",
        lambda folder: api_keys.add(folder / "keys.toml", "the shop", ["read"], None),
        SettingsError,
        r"NAME | found 'the shop' | expected letters | choose another name",
    ),
    Row(
        "a key with a name that is taken",
        twice,
        SettingsError,
        r"NAME | found 'shop', which .*keys\.toml has | expected a new one | take its table out",
    ),
    Row(
        "a file of keys in a folder that is not there",
        lambda folder: api_keys.add(folder / "none" / "keys.toml", "shop", ["read"], None),
        SettingsError,
        r"FILE: .*keys\.toml | cannot be written: No such file | expected a file in a folder | choose another",
    ),
    Row(
        "a session with an action that the settings do not have",
        lambda _folder: check_events([SessionEvent("x-1", action="stare")], Actions(SMALL.clicks)),
        RequestError,
        r"events\[0\]\.action | found 'stare' | expected one of view, | clicks\.actions",
    ),
    Row(
        "a session with an event that is neither a click nor a search",
        lambda _folder: check_events([SessionEvent(action="view")], Actions(SMALL.clicks)),
        RequestError,
        r"events\[0\]\.item | found neither an item nor a search | expected one of them | name the item",
    ),
    Row(
        "a request before any release",
        lambda _folder: Responder(Standby(SMALL, MemoryLog(), ServeMetrics())).serving(),
        RequestError,
        r"releases | found none that is live | expected one of model 'two-hop' | `headrace publish`",
    ),
]
