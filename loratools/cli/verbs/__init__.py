"""The commands, one file a verb: the file `merge.py` is `loratools merge`.

The first line of a file is its short help, which is printed without importing the file.
"""
