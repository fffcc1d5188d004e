"""Addresses that carry their own permission, as those of a storage service do."""

import hashlib
import hmac
import secrets


class Signer:
    """Signs a method and a path, for as long as the server's state lives."""

    def __init__(self) -> None:
        self.key = secrets.token_bytes(16)

    def sign(self, method: str, path: str) -> str:
        """The path with its signature."""
        return f"{path}?Signature={self._signature(method, path)}"

    def holds(self, method: str, path: str, signature: str) -> bool:
        return hmac.compare_digest(signature.encode(), self._signature(method, path).encode())

    def _signature(self, method: str, path: str) -> str:
        return hmac.new(self.key, f"{method} {path}".encode(), hashlib.sha256).hexdigest()[:32]
