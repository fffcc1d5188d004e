"""What stands in for the config of a PEFT adapter that has none: its tensors, and `--alpha`.

Such files are state dicts that were saved without `save_pretrained`. Their tensors say the rank,
the modules and the kind of update, but not the alpha, unless it is a tensor of each module.
"""

from collections.abc import Iterator, Mapping

from loratools.deltas.lora import Scaling
from loratools.errors import FormatError, shorten
from loratools.formats._modules.alphas import ALPHA, read_alphas, scaling_of
from loratools.formats._peft.codecs import Codecs, codecs_of
from loratools.formats._peft.config import PeftConfig, Unstated
from loratools.formats._peft.keys import Parts
from loratools.formats._peft.updates import path_of
from loratools.io.bundle import Bundle
from loratools.parts import Note
from loratools.typed import of_format, valued

#: The type that is taken: of all types, most adapters have it, and no other has its parts.
_TYPE = "LORA"


def unstated_codecs() -> Codecs:
    """The codecs of the type that an adapter without a config is taken to have."""
    return codecs_of(_TYPE)


def unstated_config(bundle: Bundle, codecs: Codecs, parts: Parts, alpha: str) -> PeftConfig:
    """The config of an adapter that has none, with the ranks of its tensors.

    `alpha` is the value of the option: a number, or `auto` to take each module's rank. Alphas that
    modules have as tensors are moved from `parts` to the config.

    Raises:
        FormatError: there are no updates, for which alone a config is not needed.
    """
    if not parts.modules:
        raise FormatError(
            f"{bundle.where}: no adapter_config.json beside it, and no factors of a LoRA in it, "
            f"which alone can be read without",
            hint=f"pass it with {valued('config')}",
        )
    ranks = {
        path_of(module): (*source.shape, 1)[0]
        for module, roles in parts.modules.items()
        for role, source in roles.items()
        if role in ("lora_A", "lora_embedding_A")
    }
    stored = dict(_stored_alphas(bundle.where, parts, ranks))
    unstated = Unstated(ranks, None if alpha == "auto" else float(alpha), stored)
    return PeftConfig(bundle.config_name, codecs.type, {}, 1, 1.0, {}, {}, unstated=unstated)


def _stored_alphas(
    where: str, parts: Parts, ranks: Mapping[str, int]
) -> Iterator[tuple[str, Scaling]]:
    """The scalings of modules with an alpha as a tensor, which is no whole tensor any more."""
    names = {module: f"{module}.{ALPHA}" for module in ranks}
    alphas = {m: parts.plain.pop(name) for m, name in names.items() if name in parts.plain}
    numbers = read_alphas(alphas)
    for module, source in alphas.items():
        name = f"{where}: {shorten(names[module])}"
        yield module, scaling_of(name, source, numbers.get(module), rank=ranks[module])


def alpha_notes(config: PeftConfig, alpha: str) -> Iterator[Note]:
    """Notes on where the alpha comes from, if that is not the config, or not the config alone."""
    if config.unstated is None:
        return
    if config.unstated.stored.keys() >= config.unstated.ranks.keys():
        return
    if config.unstated.alpha is None:
        yield Note(
            "problem",
            "no adapter_config.json beside it, and nothing else says its alpha: taken as the rank, "
            "a scaling of 1, which is a guess (PEFT's default alpha is 8 at any rank); pass its "
            f"config with {valued('config')}, or its alpha with {of_format('alpha')}",
            trap="missing-alpha",
        )
    else:
        yield Note(
            "info",
            f"no adapter_config.json beside it: alpha is {alpha}, as given, over the rank (not its "
            f"root, as with rsLoRA)",
        )
