"""Signed URLs, which carry their own permission, like those of a storage service."""

import hashlib
import hmac
import secrets


class Signer:
    """Signs a method and a path with a key of its own, so signatures of another Hub do not hold."""

    def __init__(self) -> None:
        self.key = secrets.token_bytes(16)

    def sign(self, method: str, path: str) -> str:
        """The path with a signature in its query."""
        return f"{path}?Signature={self._signature(method, path)}"

    def holds(self, method: str, path: str, signature: str) -> bool:
        return hmac.compare_digest(signature.encode(), self._signature(method, path).encode())

    def _signature(self, method: str, path: str) -> str:
        return hmac.new(self.key, f"{method} {path}".encode(), hashlib.sha256).hexdigest()[:32]
