"""Who carries out work: threads over targets, and executors of independent steps."""
