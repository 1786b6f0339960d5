"""The demo's live page: a server in the demo's process, whose visitors are shoppers like the simulated ones."""

import threading
from typing import Final

import numpy as np

from engine.errors import SettingsError
from engine.eventlog.base import EventLog
from engine.settings.sections import Settings
from engine.view.http_server import HttpServer
from engine.view.shop import Shop
from producers.replay.click_encoder import ClickEncoder, ProducedEvents
from producers.simulation.shoppers import ACTIONS, SimulationSettings
from producers.simulation.simulated_catalogue import make_catalogue

_ANY_PORT: Final = 0


class _VisitorClicks:
    """Sends the clicks of visitors, through one producer."""

    def __init__(self, settings: Settings, log: EventLog) -> None:
        self._encoder = ClickEncoder(settings.clicks)
        self._producer = log.producer()
        self._lock = threading.Lock()

    def send(self, user: str, item: str, time_ms: int) -> None:
        events = ProducedEvents([user], [item], np.array([time_ms], np.int64), [ACTIONS[0]])
        with self._lock:
            self._producer.send(self._encoder.encode(events))
            self._producer.flush()


def open_page(settings: Settings, simulation: SimulationSettings, log: EventLog) -> HttpServer:
    """The server of the demo's page, not entered yet; on any free port where that of the settings is taken.

    Raises:
        SettingsError: the settings of `serve` do not fit.
    """
    catalogue = make_catalogue(simulation.catalogue_seed, simulation.items)
    categories = dict(zip(catalogue.ids, catalogue.categories, strict=True))
    shop = Shop(_VisitorClicks(settings, log).send, lambda item: categories.get(item, ""))
    try:
        return HttpServer(settings, log, shop)
    except SettingsError:
        if settings.serve.port == _ANY_PORT:
            raise
    serve = settings.serve.model_copy(update={"port": _ANY_PORT})
    return HttpServer(settings.model_copy(update={"serve": serve}), log, shop)
