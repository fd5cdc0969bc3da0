"""`--pattern hidden`: chooses the coordinates of the residual stream that stay, as a method says."""

import math
from fractions import Fraction

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.hidden_methods.method import get_hidden_method
from langprune_cli.models.protocols import Configuration
from langprune_cli.stages.hidden.cut import HIDDEN, HIDDEN_PART, PARTED, StreamOf, hidden_axis
from langprune_cli.stages.hidden.moments import LAST, Moments
from langprune_cli.stages.structured.choosing import Choosing
from langprune_cli.stages.structured.judged_on import JudgedOn
from langprune_cli.stages.structured.narrowed import narrowing_of
from langprune_cli.stages.structured.removals import Removal
from langprune_cli.store.artifact import ArtifactWriter
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.units.coordinates import Coordinates
from langprune_cli.units.hidden import hidden_count

_STEP = 8  # kernels want multiples
_MOST_DEPARTURE = 0.1  # of a token's norm from the mean, after D, as a logarithm
_HEAD = 4.0  # how much the stream before the head counts, in units of one norm of a block


def hidden_that_stays(config: Configuration, share: float) -> int:
    """Return the smallest hidden size that removes at most `share` of it, in multiples of 8 where the configuration has such.

    Raises LangpruneError if the configuration can state none.
    """
    count = hidden_count(config)
    least = math.ceil(count.units * (1 - Fraction(share).limit_denominator(10**9)))
    possible = [left for left in range(least, count.units) if _opens(config, left)]
    even = [left for left in possible if left % _STEP == 0]
    if not possible:
        raise LangpruneError(
            f"The config.json of this {config.get_text_config().model_type} can state no hidden size from {least} to "
            f"{count.units - 1}: give a larger share than {HIDDEN}:{share:g}, or prune channels or blocks"
        )
    return (even or possible)[0]


def _opens(config: Configuration, left: int) -> bool:
    try:
        hidden_count(config).stated(config, left)
    except Exception:  # noqa: BLE001 - whatever a family's code says of numbers that it does not take
        return False
    return True


def choosing_hidden(
    model: OpenedModel, judged_on: JudgedOn, removal: Removal, method: str, reporter: Reporter
) -> Choosing:
    """Return the choice of coordinates.

    Raises LangpruneError for families of which it is not known what reads and writes the stream, and for sizes that the
    configuration cannot state.
    """
    found, left = StreamOf.of(model), hidden_that_stays(model.streamed.config, removal.sparsity)
    narrowing_of(model, (hidden_axis(model.streamed.config),), {HIDDEN: left})
    chosen = get_hidden_method(method)

    def write(writer: ArtifactWriter) -> dict[str, object]:
        of, scale = found, found.scale()
        moments = Moments(model, of.stream, scale, writer.folder)
        moments.collect(judged_on.ids(), writer.folder, reporter)
        if of.stream.tied and (problem := _why_apart(moments, of)):
            of = StreamOf.of(model, parted=True)
            scale = of.scale()
            reporter.note(
                f"The head of {model.label} is parted from its embeddings, {of.head_weights(left):,} weights more: {problem}. "
                "--pattern vocab, for the languages that are needed, makes both smaller."
            )
        coordinates = Coordinates(of.stream, chosen.turn(moments_read(moments, of, scale), left), scale)
        tensors = {"turn": coordinates.turn.float(), "scale": scale, PARTED: torch.tensor(of.parted)}
        for index, path, moment in moments:
            if path in of.stream.alone:
                continue
            last = of.norm(LAST, path) if index == LAST else None
            constant = coordinates.constant(moment.double() * scale[:, None] * scale, moments.tokens, last=last)
            tensors[f"constant/{index}/{path}"] = torch.tensor(constant, dtype=torch.float64)
        writer.write_tensors(HIDDEN_PART, tensors)
        weights = model.streamed.checkpoint.parameters()
        return {"weights": weights, "removed": 0, "hidden": {"before": len(scale), "after": left}}

    return Choosing(
        judged_on,
        params={"method": method, "pattern": str(removal), "sparsity": removal.sparsity, "kept": {HIDDEN: left}},
        label=f"{method}-{removal.kind}-{removal.sparsity:g}",
        write=write,
    )


def _why_apart(moments: Moments, of: StreamOf) -> str:
    """Return why one matrix cannot embed and predict, "" if it can.

    D then has the last norm's weights, which asks for positive ones, and for tokens of which D keeps equal shares: else what
    norms divide by changes for some tokens alone, such as a text's first one (massive activations, arXiv 2402.17762).
    """
    turned = int((of.stream.gain(of.norm(LAST, of.stream.last)) <= 0).sum())
    if turned:
        return f"the norm before the head turns or removes {turned} of {len(moments.scale)} coordinates"
    if moments.departure > _MOST_DEPARTURE:
        return f"with one matrix for both, norms would change some tokens by {math.expm1(moments.departure):.0%}"
    return ""


def moments_read(moments: Moments, of: StreamOf, scale: Tensor) -> Tensor:  # float64 [d, d]
    """Return the sum of what norms and linears read of D x, each of them to the same part."""
    total = torch.zeros(1, dtype=torch.float64)
    for index, path, moment in moments:
        if index == LAST or path in of.stream.before or path in of.stream.alone:
            wide = moment.double() * scale[:, None] * scale
            total = total + wide * (
                (_HEAD if index == LAST else 1.0) / wide.trace().clamp_min(torch.finfo(torch.float64).tiny)
            )
    if not torch.isfinite(total).all():
        raise LangpruneError(
            f"hidden states of {of.model.label} are not finite: compute in another dtype, such as --dtype float32"
        )
    return total
