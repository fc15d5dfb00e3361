"""The table of frozen bases: building them, their weights and preprocessing."""
