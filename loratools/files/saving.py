"""`Adapter.save`, for those who open adapters: what writing needs is imported when it is used."""

from pathlib import Path

from loratools.adapter import Adapter
from loratools.files.place import local_paths


def save(adapter: Adapter, path: Path, overwrite: bool) -> None:
    """Write an adapter in its own format, with the tensors as they are: an `Adapter.saver`.

    Raises:
        LoratoolsError: see `write_adapter`.
    """
    from loratools.files.writing import write_adapter
    from loratools.running.parallel import threads

    inputs = local_paths(adapter)
    with threads(None) as each:
        write_adapter(adapter, path, inputs=inputs, overwrite=overwrite, each=each)
