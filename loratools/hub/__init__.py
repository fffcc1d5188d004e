"""Names on the Hub made into checked local files, and folders made into commits."""
