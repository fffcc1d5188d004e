"""A file was saved before its parts were gathered from the processes of a training."""

from loratools.traps._trap import Trap


class _Ungathered(Trap):
    what = "Factors are empty, flat or `flat_param`: ZeRO-3 or FSDP did not gather them for saving."
    readers = "PEFT 0.21 warns when it saves such a file; earlier ones say nothing"
    cure = "what is missing is in other processes, and every verb refuses such a file by name"
    found_by = "every verb, with an error"


TRAP = _Ungathered()
