"""HTTP: lists at request time, and the live page."""
