"""Releases: bundles on disk, announcements, background loading, and a release ready to serve."""
