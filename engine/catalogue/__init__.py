"""Ids of items, searches and actions as numbers, and item content as features."""
