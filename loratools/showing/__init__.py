"""How reports are shown: tables as values, as lines of text at any width, and as HTML."""
