"""The rows of an embedding that PEFT trained for single tokens, beside any type of adapter."""

from loratools.errors import FormatError, counted
from loratools.formats._peft.config import PeftConfig
from loratools.io.source import Source
from loratools.parts import ReplacedRows


def replaced_rows(config: PeftConfig, module: str, source: Source) -> ReplacedRows:
    """The rows that replace those of an embedding; the config lists which rows they are.

    Raises:
        FormatError: the config does not list them, lists another number of rows, or one row twice.
    """
    with config.where.errors():
        return ReplacedRows(_indices(config, module, source), source)


def _indices(config: PeftConfig, module: str, source: Source) -> tuple[int, ...]:
    indices = config.fields.get("trainable_token_indices")
    if isinstance(indices, dict):
        fitting = [v for k, v in indices.items() if module == k or module.endswith(f".{k}")]
        indices = fitting[0] if len(fitting) == 1 else None
    if not isinstance(indices, list) or not all(type(i) is int and i >= 0 for i in indices):
        raise FormatError(
            f"trainable_token_indices does not say which rows of {module} were trained, and rows "
            f"of it are stored"
        )
    if len(source.shape) != 2 or len(indices) != source.shape[0]:
        raise FormatError(
            f"trainable_token_indices has {counted(len(indices), 'index', 'indices')} for "
            f"{module}, whose trained rows are {list(source.shape)}"
        )
    if len(set(indices)) < len(indices):
        raise FormatError(f"trainable_token_indices has a row of {module} twice")
    return tuple(indices)
