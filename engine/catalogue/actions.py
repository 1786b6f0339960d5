"""What users do: codes and weights of the actions that the settings name."""

import numpy as np

from engine.arrays import Float32
from engine.settings.sections import ClickSettings


class Actions:
    """Codes and weights of the actions named in the settings; codes count from 1 in their order."""

    def __init__(self, settings: ClickSettings) -> None:
        self.names = ["", *settings.actions]
        self.codes = {name: code for code, name in enumerate(self.names) if code}
        self._default = self.codes[settings.default_action]
        self.search = self.code(settings.search_action)
        """Of a search."""
        self.weights: Float32 = np.zeros(256, np.float32)
        self.weights[1 : len(self.names)] = list(settings.actions.values())

    def code(self, name: str | int | None) -> int:
        """Code of an action; of the default action for one that is absent or not in the settings."""
        return self.codes.get(str(name), self._default)
