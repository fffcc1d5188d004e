"""Other files of weights lie in the adapter's folder."""

from loratools.traps._trap import Trap


class _StrayWeights(Trap):
    what = "Other files of weights lie in the adapter's folder."
    readers = (
        "SGLang reads every `*.safetensors` there as a part of the adapter; PEFT and vLLM read "
        "`adapter_model.safetensors` alone, and lose what was trained with it in another file"
    )
    cure = "keep them in another folder; verbs that write an adapter leave them out"
    found_by = "every verb"


TRAP = _StrayWeights()
