"""The small release that ships with the package, trained for the simulated catalogue.

`deploy/train_demo_release` trains it again.
"""

from pathlib import Path

DEMO_RELEASE = Path(__file__).parent / "release"
"""Folder of the bundle."""
