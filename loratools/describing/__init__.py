"""`inspect`: what an adapter is, from its headers, its factors, and beside its base."""
