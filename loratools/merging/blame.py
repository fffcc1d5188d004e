"""Where a NaN or an infinity in a merged weight comes from, for the message about it."""

from loratools.errors import NonFiniteError, shorten
from loratools.io.blocks import block_rows, read_block, rows_of, spans
from loratools.io.source import Source
from loratools.io.values import is_finite
from loratools.merging.plan import PlannedTensor
from loratools.typed import flag, valued


def not_finite(tensor: PlannedTensor) -> NonFiniteError:
    """The error about a merged weight that is not finite, once what it is made of is read again."""
    is_in_base = not _is_finite(tensor.origin)
    factors = (source for change in tensor.changes for source in change.delta.sources)
    factor = next((source for source in factors if not _is_finite(source)), None)
    whence, advice = [], []
    if is_in_base:
        whence.append("the adapter's own weight" if tensor.is_trained else "the base")
        advice.append("adapter" if tensor.is_trained else "base")
    if factor is not None:
        whence.append(f"{shorten(factor.keys[0])} of the adapter")
        advice.append("adapter")
    said = f"as does {' and '.join(whence)}" if whence else "as the sum is too large for it"
    hint = f"name another {' and another '.join(dict.fromkeys(advice))}"
    if not whence:
        hint = f"give a smaller {valued('weights')} or a wider {valued('dtype')}"
    return NonFiniteError(
        f"{shorten(tensor.name)}: holds a NaN or an infinity after the merge (in {tensor.dtype}), "
        f"{said}",
        tensor=tensor.name,
        hint=f"{hint}, or {flag('allow_nonfinite')} writes it all the same",
    )


def _is_finite(source: Source) -> bool:
    rows = spans(0, rows_of(source.shape), block_rows(source.shape))
    return all(is_finite(read_block(source, begin, end)) for begin, end in rows)
