# mypy: disallow-any-expr
"""A user's script, which calls every verb: mypy finds no `Any` in it, and a test runs it."""

from pathlib import Path

import loratools


def look(adapter: Path, base: Path) -> list[str]:
    """What an adapter is, and whether it fits a base."""
    found = loratools.inspect(adapter, base=base, spectrum=True)
    lines = [f"{group.pattern}: rank {group.rank}" for group in found.groups]
    if found.coverage is not None:
        lines.append(f"{found.coverage.touched} of {found.coverage.matrices} matrices change")
    return [*lines, *(note.message for note in found.notes)]


def make_models(adapter: Path, base: Path, folder: Path) -> list[str]:
    """A merged model, the same with the adapter swapped in too, and the adapter extracted."""
    merged = loratools.merge(base, adapter, output=folder / "merged")
    extracted = loratools.svd_extract(
        folder / "merged", base, output=folder / "extracted", rule=loratools.RankRule(rank=4)
    )
    swapped = loratools.swap(folder / "merged", adapter, weights=[-1.0])
    fidelity = merged.total
    error = 0.0 if fidelity is None else fidelity.relative_error
    return [f"lost {error}, {extracted.total.energy}", *(each.path for each in swapped.adapters)]


def make_adapters(adapter: Path, folder: Path) -> list[str]:
    """Adapters made of one: half as strong, in another format, of two, and smaller."""
    try:
        rescaled = loratools.rescale(
            adapter, output=folder / "half", rescaling=loratools.Rescaling(strength=0.5)
        )
        converted = loratools.convert(folder / "half", output=folder / "other", to="peft")
        combined = loratools.combine([adapter, folder / "half"], output=folder / "both")
        resized = loratools.resize(folder / "both", output=folder / "small", size=100_000)
    except loratools.LoratoolsError as error:
        return [str(error)]
    return [rescaled.adapter, str(converted.written), *combined.adapters, resized.adapter]


def compute(adapter: Path, folder: Path) -> list[str]:
    """One layer's update, and an adapter made in memory of two."""
    opened = loratools.open_adapter(adapter)
    query = opened["layers.0.self_attn.q_proj"]
    rows = query.update(0, 8) - query.up[:8].double() @ query.down.double() * (query.scaling or 1)
    both = loratools.combine([(opened, 0.7), (adapter, 0.3)], rank=4)
    values = both[query.name].singular_values()
    factors = {"q.lora_A.weight": query.down, "q.lora_B.weight": query.up}
    made = loratools.adapter_from_tensors(factors, alpha=8)
    saved = both.save(folder / "saved")
    return [f"{query.norm():.3f}", *map(str, (rows.shape, values.shape)), *made, str(saved)]


def remarks(adapter: loratools.Adapter) -> list[str]:
    """What a verb that made an adapter remarked, whichever it was; one that was opened has none."""
    return [] if adapter.report is None else list(adapter.report.notes)


def half(adapter: Path) -> loratools.Adapter[loratools.RescaleReport]:
    """The adapter, half as strong."""
    return loratools.rescale(adapter, strength=0.5)


def report(adapter: Path, model: Path, base: Path) -> list[str]:
    """What the report of each adapter made in memory says, and only that verb's."""
    rescaled = half(adapter)
    combined = loratools.combine([(rescaled, 0.7), adapter], method="ties", rank=8)
    resized = loratools.resize(combined, rank=4)
    converted = loratools.convert(resized, to="mlx")
    extracted = loratools.svd_extract(model, base, rank=4)
    lines = [
        f"{max(rescaled.report.strengths.values())}",
        f"{combined.report.method} {combined.report.weights}",
        f"{resized.report.certificates.total.error:.3f}",
        f"{converted.report.source} to {converted.report.target}",
        f"{extracted.report.total.energy:.6f}",
    ]
    made: list[loratools.Adapter] = [rescaled, combined, resized, converted, extracted]
    for each in (*made, loratools.open_adapter(adapter)):
        lines += remarks(each)
    return lines


def publish(folder: Path, repo: str) -> list[str]:
    """Send an adapter to the Hub, and fetch it again."""
    pushed = loratools.push(folder, repo, loratools.PushOptions(create=True))
    pulled = loratools.pull(repo, lock=folder.with_suffix(".lock"))
    return [*pushed.changed, pulled.commit]
