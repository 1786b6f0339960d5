"""The event log in this process."""
