"""From names on the Hub to verified local files, and from local files to commits."""
