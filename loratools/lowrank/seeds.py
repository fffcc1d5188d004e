"""Seeds of random choices, one for each target."""

import hashlib


def seed_of(seed: int, target: str) -> int:
    """A seed for one target, whatever the others are."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{target}".encode()).digest()[:7])
