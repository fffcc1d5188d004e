"""What the dialects share whose keys are the name of a module and the name of a part.

Each module has its own tensors and its own scaling, so a file may have several kinds of update. A
dialect says how it spells the names (`spelling.py`); here a module's tensors become an update and
an update becomes tensors, by the codec of its kind in `kinds/`.
"""
