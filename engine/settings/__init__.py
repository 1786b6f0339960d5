"""The settings: sections with defaults and ranges, and their loader."""
