"""Ctrl-C as a request to end one piece of work in order."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """A first Ctrl-C, which is noted and answered with a sentence once; a second one ends the program as usual."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Args: what prints a sentence for the user."""
        self._say = say
        self._is_pressed, self._is_answered = False, True
        self._sentence = ""
        self._previous = signal.getsignal(signal.SIGINT)

    def arm(self, sentence: str) -> None:
        """Note the next Ctrl-C, to be answered with this sentence; one from before is forgotten."""
        self._is_pressed, self._is_answered, self._sentence = False, False, sentence
        signal.signal(signal.SIGINT, self._on_press)

    def disarm(self) -> None:
        """Let Ctrl-C do what it did before."""
        signal.signal(signal.SIGINT, self._previous)

    def __call__(self) -> bool:
        """Whether Ctrl-C was pressed. The first call after it says the sentence, as a signal handler must not print."""
        if self._is_pressed and not self._is_answered:
            self._is_answered = True
            self._say(self._sentence)
        return self._is_pressed

    def _on_press(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._is_pressed = True
        self.disarm()


@contextmanager
def interruptible(say: Callable[[str], None], sentence: str = "") -> Iterator[Interruption]:
    """An interruption that is armed if there is a sentence, for as long as the context lasts."""
    interruption = Interruption(say)
    if sentence:
        interruption.arm(sentence)
    try:
        yield interruption
    finally:
        interruption.disarm()
