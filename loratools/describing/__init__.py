"""`inspect` describes an adapter by its headers, its factors, and its effect on a base."""
