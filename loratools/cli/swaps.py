"""Run a swap for the commands that can make one, and print its report."""

from typing import Any

from loratools.cli.options import rounding_seed
from loratools.cli.progress import progress_bar
from loratools.cli.text import Answer
from loratools.cli.verbosity import is_verbose


def run_swap(
    model: str,
    adapters: tuple[str, ...] | None,
    *,
    weights: tuple[float, ...],
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Swap with the options of the command line, and print the report."""
    from loratools.merging.execute import WriteOptions
    from loratools.merging.plan import MergeOptions
    from loratools.swapping.swap import swap

    shows_rows = is_verbose() or settings["dry_run"]
    answer = Answer(verbose=shows_rows, as_json=as_json)
    with progress_bar() as progress:
        swap(
            model,
            adapters,
            weights=weights or None,
            options=MergeOptions(
                only=settings["only"],
                skip=settings["skip"],
                allow_unmatched=settings["allow_unmatched"],
                block_weights=settings["block_weights"] or None,
            ),
            write=WriteOptions(
                seed=rounding_seed(settings),
                allow_nonfinite=settings["allow_nonfinite"],
                jobs=settings["jobs"],
                progress=progress,
            ),
            approve=answer.approve,
            config=settings["config"],
            allow_pickle=settings["allow_pickle"],
            dialect_options=settings["dialect_options"],
            dry_run=settings["dry_run"],
            variant=settings["variant"],
        )
    answer.print()
