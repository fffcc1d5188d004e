"""The vocabulary's size in a planned merge, on which all embedding tables must agree."""

from dataclasses import replace

from loratools.errors import UnsupportedError, counted
from loratools.merging.plan import MergePlan
from loratools.names.tied import is_embedding


def with_vocabulary(plan: MergePlan) -> MergePlan:
    """The plan with the vocabulary's size before and after, if they differ.

    Raises:
        UnsupportedError: one embedding table grows, and another one does not, or is packed.
    """
    tables = {name: tensor for name, tensor in plan.tensors.items() if is_embedding(name)}
    vocabulary = None
    for table in tables.values():
        if table.base is not None and table.base.shape[0] != table.shape[0]:
            vocabulary = (table.base.shape[0], table.shape[0])
    if vocabulary is None:
        return plan
    for name in filter(is_embedding, plan.packed.weights):
        raise UnsupportedError(
            f"{name}: is stored {plan.packed.described(name)}, but the vocabulary grows to "
            f"{vocabulary[1]}, and no rows can be added to codes"
        )
    for name, table in tables.items():
        if table.shape[0] == vocabulary[0]:
            raise UnsupportedError(
                f"{name}: has {counted(table.shape[0], 'row')}, but the vocabulary grows to "
                f"{vocabulary[1]} and the adapter brings no rows for it"
            )
    return replace(plan, vocabulary=vocabulary)
