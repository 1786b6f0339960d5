"""Codes and weights of the actions in the settings."""

import numpy as np

from engine.arrays import Float32
from engine.settings.sections import ClickSettings


class Actions:
    """Codes and weights of the actions in the settings; codes count from 1, in the order of the settings."""

    def __init__(self, settings: ClickSettings) -> None:
        self.names = ["", *settings.actions]
        """Names by code; code 0 has none."""
        self.codes = {name: code for code, name in enumerate(self.names) if code}
        """Codes by name."""
        self._default = self.codes[settings.default_action]
        self.search = self.code(settings.search_action)
        """Code of a search's action."""
        self.weights: Float32 = np.zeros(256, np.float32)
        """[256] weight by code; 0 for codes without an action."""
        self.weights[1 : len(self.names)] = list(settings.actions.values())

    def code(self, name: object) -> int:
        """Code of an action; that of the default action for a name that is absent, no text or not in the settings."""
        return self.codes.get(str(name), self._default)
