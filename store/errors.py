"""What the store raises on purpose: one line naming the file, the fact and the mend."""


class StoreError(Exception):
    """Base of everything that `store` raises on purpose."""
