"""The demo: shoppers, engine and screen in one process."""
