"""Writes an adapter as a single file whose keys are the name of a module and the name of a part."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final, get_args

from loratools.adapter import Adapter
from loratools.deltas import Delta
from loratools.deltas.lora import Origin, Scaling
from loratools.errors import UnsupportedError, about, shorten
from loratools.formats._file_order import in_file_order
from loratools.formats._modules.alphas import ALPHA, alpha_at, stored_alpha
from loratools.formats._modules.codecs import Codecs, all_codecs
from loratools.formats._modules.kinds import Codec
from loratools.formats._modules.metadata import Size, corrected, has_kernel
from loratools.formats._modules.stored import as_stored
from loratools.io.bundle import Bundle
from loratools.io.dtypes import nbytes
from loratools.io.hashes import OF_TRAINING, placeholders, seal
from loratools.io.source import Source
from loratools.parts import Filed, Update

#: The key of a part of a module.
KeyOf = Callable[[str, str], str]


@final
@dataclass(frozen=True)
class _Module:
    """A module that is written.

    `alpha` is None where the kind of update has no scaling. `stored_alpha` is None there, and where
    readers get the right alpha without a tensor.
    """

    name: str
    delta: Delta
    codec: Codec
    alpha: float | None
    stored_alpha: Source | None


@final
class _Alphas(NamedTuple):
    """The dtype of the alphas of a file, if one is known, and the origins of those left out."""

    dtype: str | None
    left_out: Collection[Origin]


@final
@dataclass(frozen=True)
class SingleFile:
    """How a dialect stores an adapter in a single file.

    Attributes:
        file: what errors call such a file: «a kohya file».
        is_name: whether the dialect has such names of modules.
        names: a description of these names, for errors.
        key: the key of a part of a module.
        needs_alpha: whether a new file says alpha too if all scalings are 1. A module that was read
            without an alpha goes on without it while its scaling is 1.
    """

    file: str
    is_name: Callable[[str], bool]
    names: str
    key: KeyOf
    needs_alpha: bool = True

    def of(self, adapter: Adapter) -> Bundle:
        """The file of an adapter; its tensors have the order of the file that was read, if any.

        Raises:
            UnsupportedError: the format cannot store something in the adapter.
        """
        self._refuse_others(adapter)
        codecs = all_codecs()
        scalings = [s for update in adapter.updates.values() if (s := update.delta.scaling)]
        dtypes = [scaling.source.dtype for scaling in scalings if scaling.source is not None]
        alphas = _Alphas(dtypes[0] if dtypes else None, self._left_out(adapter, scalings))
        modules = []
        for target, update in adapter.updates.items():
            with about(target):
                modules.append(self._module(adapter, target, update, codecs, alphas))
        filed = adapter.filed or Filed("")
        tensors = in_file_order(filed.order, dict(self._tensors(modules, {*filed.order})))
        metadata = corrected(filed.metadata, [*_sizes(modules)])
        is_trained = any(name.startswith(("ss_", "sshs_")) for name in metadata)
        hashes = placeholders([*metadata, *(OF_TRAINING if is_trained else ())])
        return Bundle(
            where=adapter.where,
            tensors=tensors,
            metadata=metadata | hashes,
            config=None,
            companions=(),
            nbytes=sum(nbytes(source.dtype, source.shape) for source in tensors.values()),
            seal=seal if hashes else None,
        )

    def _refuse_others(self, adapter: Adapter) -> None:
        groups = ((adapter.replaced, "a tensor stored whole"), (adapter.rows, "single rows"))
        for group, what in groups:
            for target in group:
                raise UnsupportedError(
                    f"{adapter.where}: {shorten(target)}: {self.file} has no place for {what}",
                    tensor=target,
                )

    def _module(
        self,
        adapter: Adapter,
        target: str,
        update: Update,
        codecs: Codecs,
        alphas: _Alphas,
    ) -> _Module:
        where, delta = f"{adapter.where}: {shorten(target)}", update.delta
        codec = codecs.taking(delta)
        if codec is None:
            raise UnsupportedError(f"{where}: {self.file} has no place for a {delta.kind}")
        name = target.removesuffix(".weight")
        if name == target or not self.is_name(name):
            raise UnsupportedError(f"{where}: not {self.names} with `.weight`")
        if update.is_embedding or update.fan_in_fan_out:
            raise UnsupportedError(
                f"{where}: {self.file} has no place for an embedding, or for a weight stored as "
                f"(in, out)"
            )
        scaling = delta.scaling
        if scaling is None:
            return _Module(name, delta, codec, None, None)
        rank = codec.rank(delta)
        alpha = alpha_at(scaling, rank)
        dtype = alphas.dtype or delta.sources[0].dtype
        if alpha == rank and scaling.origin in alphas.left_out:
            return _Module(name, delta, codec, alpha, None)
        stored = stored_alpha(self.key(name, ALPHA), scaling, alpha, dtype)
        return _Module(name, delta, codec, alpha, stored)

    def _left_out(self, adapter: Adapter, scalings: Sequence[Scaling]) -> Collection[Origin]:
        """The origins of a scaling of 1, which readers assume, that need not be an alpha.

        A module without an alpha would be in doubt beside others that have one.
        """
        has_alphas = any(s.value != 1 or s.origin == "tensor" for s in scalings)
        if not self.needs_alpha and not has_alphas:
            return get_args(Origin)
        is_read = adapter.filed is not None and adapter.filed.order != ()
        return ["assumed"] if is_read else []

    def _tensors(
        self, modules: Sequence[_Module], filed: Collection[str]
    ) -> Iterator[tuple[str, Source]]:
        for module in modules:
            if module.stored_alpha is not None:
                yield self.key(module.name, ALPHA), module.stored_alpha
            for part, source in module.codec.encode(module.delta):
                yield as_stored(module.name, self.key(module.name, part), source, filed)


def _sizes(modules: Sequence[_Module]) -> Iterator[Size]:
    for module in modules:
        if module.alpha is not None:
            dtype = module.stored_alpha.dtype if module.stored_alpha else "F64"
            rank, shape = module.codec.rank(module.delta), module.delta.shape
            yield Size(rank, module.alpha, dtype, has_kernel(shape))
