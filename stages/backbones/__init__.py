"""Frozen bases: the table, building them, their weights and their preprocessing."""
