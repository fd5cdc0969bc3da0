"""Estimates the peak memory of pruning, on a CPU and on a GPU, from shapes alone."""

from dataclasses import dataclass

from torch import nn

from langprune_cli.allocations.allocation import Trials
from langprune_cli.defaults import BATCH_TOKENS
from langprune_cli.layouts.experts import Expert
from langprune_cli.layouts.linears import linear_shapes
from langprune_cli.models.composites import text_paths
from langprune_cli.models.protocols import CausalModel
from langprune_cli.models.skeleton import find_blocks
from langprune_cli.stages.solving.divergences import MOST_BYTES, PRODUCT_BYTES, pieces_of

PROCESS_BYTES = 580_000_000  # Python and torch after loading, and the matrix library's buffers


@dataclass(frozen=True)
class Peaks:
    """The peak memory of `prune` with its default method and propagation, in bytes."""

    cpu: int  # of the process, if it computes on a CPU
    device: int  # of a GPU, if it computes there


def peaks(
    model: CausalModel,
    windows: int,
    seqlen: int,
    *,
    blocks_leave: bool = False,
    corrected: bool = False,
    trials: Trials | None = None,
) -> Peaks:
    """Estimate the peaks for a skeleton in the dtype of the computation.

    With c bytes per number of that dtype, the largest block of B bytes, embeddings and final norm of E bytes, O with a head of
    its own, and hidden states S = windows x seqlen x hidden x c, for sites of i inputs and r rows:

        cpu:    process + S + max(E + B, B + sum over sites 4 i^2 + D + T, 2 B + sum 2 i (i + 1) + D + R)
        device:           S + max(E + B, B + sum over sites 4 i^2 + D + T, B + R)
        T = b max(i) (c + 4)      R = max over sites 4 (3 i^2 + 11 r i)

    The three terms are: embedding the windows; collecting Hessians, all of a block at once, from b tokens at a time (2048, or
    one longer window); and solving a site. On a CPU, the last has packed Hessians and the others' new weights in memory; in
    float32 there are the site's Hessian, `admm`'s matrices and eleven copies of its weights (fitted to measured peaks).
    Linears of a module with the same number of inputs are assumed to share a site, except for the last, which reads the
    others' outputs (o_proj, down_proj). With propagation `corrected` S is there twice, and D is that of `drift_bytes`; without
    it D is 0. Other methods take less. The page cache is not counted, as it gives way. When blocks
    are pruned, `check_without` holds embeddings and head in float32, so E + B is at least 4 O / c. What only images use is copied
    tensor by tensor, and does not count.

    An allocation with s trials holds all that they change in a block of W weights, 4 s W, while it solves a site as above, and
    hidden states of pieces of the windows for every block at once, unless they are more than a gigabyte and go to a file.
    """
    prefix, blocks = find_blocks(model)
    block = max(blocks, key=_bytes)
    text, head = text_paths(model, prefix), model.get_output_embeddings()
    around = [
        (each, head is not None and each is getattr(head, "weight", None))
        for path, each in model.named_parameters()
        if path.startswith(text) and not path.startswith(f"{prefix}.")
    ]
    outside: int = sum(each.numel() * each.itemsize for each, _ in around)
    embeddings: int = sum(each.numel() * each.itemsize for each, ends in around if not ends or _is_tied(model, each))
    item: int = next(model.parameters()).itemsize
    states: int = (2 if corrected else 1) * windows * seqlen * model.config.get_text_config().hidden_size * item
    sites = [site for _, shapes in linear_shapes(block) for site in sites_of(shapes)]
    widest = max((i for _, i in sites), default=0)
    collecting = sum(4 * i * i for _, i in sites) + max(BATCH_TOKENS, seqlen) * widest * (item + 4)
    drifts = drift_bytes(model, block) if corrected else 0
    packed = sum(2 * i * (i + 1) for _, i in sites) + drifts
    solving = max((4 * (3 * i * i + 11 * r * i) for r, i in sites), default=0)
    loaded = _bytes(block)
    compared = 4 * (outside // item) if blocks_leave else 0
    changed = 0
    if trials:
        pieces, length = pieces_of(windows, seqlen)
        kept = (len(blocks) + 2) * pieces * length * model.config.get_text_config().hidden_size * item
        weights = sum(r * i for r, i in sites)
        changed = loaded + 4 * len(trials.sparsities) * weights + solving + PRODUCT_BYTES
        changed += kept if kept <= MOST_BYTES else 0
    before = max(embeddings + loaded, compared), loaded + collecting + drifts
    return Peaks(
        PROCESS_BYTES + max(states + max(*before, 2 * loaded + packed + solving), changed),
        max(states + max(*before, loaded + solving), changed),
    )


def _is_tied(model: CausalModel, parameter: nn.Parameter) -> bool:
    return any(parameter is each for each in model.get_input_embeddings().parameters())


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.itemsize for parameter in module.parameters())


def drift_bytes(model: CausalModel, block: nn.Module) -> int:
    """Return the bytes of a block's drifts, if the last linear of each of its modules writes to the residual stream."""
    hidden = model.config.get_text_config().hidden_size
    last = [shapes[-1] for module, shapes in linear_shapes(block) if not isinstance(module, Expert)]
    return sum(8 * rows * inputs for rows, inputs in last if rows == hidden)


def sites_of(shapes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return (rows, inputs) of the sites of one module's linears."""
    *first, last = shapes
    widths = dict.fromkeys(i for _, i in first)
    return [(sum(o for o, i in first if i == width), width) for width in widths] + [last]
