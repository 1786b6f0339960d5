"""The verbs of the command `headrace` that train, evaluate and publish releases."""
