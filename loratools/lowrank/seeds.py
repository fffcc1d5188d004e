"""Seeds of random choices: every target has its own."""

import hashlib


def seed_of(seed: int, target: str) -> int:
    """Derive the seed of one target, which depends on no other target."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{target}".encode()).digest()[:7])
