"""The demo: simulated shoppers, the engine and a screen in one process."""
