"""The verb `serve`: the HTTP interface and the live page."""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click

from engine.cli.options import config_option, log_to_stderr, stop_on_signals
from engine.errors import MissingExtraError
from engine.eventlog.kafka import KafkaLog
from engine.settings import loader
from engine.view import interpreter

logger = logging.getLogger(__name__)
_CHECK_EVERY_S: Final = 1.0


@click.command()
@config_option
@click.option("--release", type=click.Path(path_type=Path), help="Start with this bundle (releases.path).")
def serve(config: Path | None, release: Path | None) -> None:
    """Answer over HTTP: stored lists, lists computed at request time, similar items, and a live page.

    Follows the topics of lists, windows and releases that workers write, and writes to none. The settings are those of
    the workers, with a section [serve]. It listens on this machine alone unless serve.host says otherwise.
    """
    require_extra()
    from engine.view.http_server import HttpServer  # noqa: PLC0415 - needs the extra

    settings = loader.load(config)
    if release:
        settings = settings.model_copy(update={"releases": settings.releases.model_copy(update={"path": release})})
    log_to_stderr(settings)
    stop = stop_on_signals()
    interpreter.take_short_turns()
    with HttpServer(settings, KafkaLog(settings.kafka)) as server:
        logger.info("listening on %s/", server.address)
        is_warm = False
        while not stop.wait(_CHECK_EVERY_S):
            server.check()
            if not is_warm and server.service.not_ready is None:
                is_warm = True
                interpreter.spare_what_is_here()
    logger.info("stopped")


def require_extra() -> None:
    """Refuse to go on without what the server is made of.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
    """
    for name in ("litestar", "uvicorn"):
        if find_spec(name) is None:
            raise MissingExtraError(f"needs {name}, which is not installed: pip install 'headrace[serve]'")
