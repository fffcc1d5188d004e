"""`push` and `pull`: between folders and the Hub, with what is checked and said on the way."""
