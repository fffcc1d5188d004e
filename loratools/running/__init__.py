"""How work is carried out: by threads over targets, and by executors of independent steps."""
