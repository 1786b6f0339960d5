"""The command `headrace` and the verbs of the serving side."""
