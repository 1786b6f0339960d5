"""The verbs of the producing side."""
