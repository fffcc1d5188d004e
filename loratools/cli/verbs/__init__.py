"""The commands, one file a verb: the file `merge.py` is `loratools merge`."""
