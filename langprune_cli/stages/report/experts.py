"""The experts of a mixture that each text uses: a heat map for each text, and tables."""

from collections.abc import Sequence

from langprune_cli.stages.combine.experts_used import ExpertsUsed
from langprune_cli.stages.report.figures import Framed
from langprune_cli.stages.report.style import LIKENESS
from langprune_cli.stages.report.svg import Cell, Grid, heat_map, scale
from langprune_cli.stages.report.tables import Table

_WIDEST = 720.0  # pixels of all cells of a row, as long as each of them can be seen
_LEAST, _MOST = 7.0, 24.0  # pixels of a cell's width


def maps(blocks: Sequence[ExpertsUsed], name: str) -> list[tuple[str, Framed]]:
    """Return each text with the shares of its tokens as a heat map, blocks by experts; all have one scale.

    blocks: one or more. name: begins the ids of the figures.
    """
    top = max(share for block in blocks for shares in block.shares.values() for share in shares)
    return [(text, _map(blocks, text, top, f"{name}-{place}")) for place, text in enumerate(blocks[0].shares)]


def _map(blocks: Sequence[ExpertsUsed], text: str, top: float, name: str) -> Framed:
    count = _experts(blocks)
    share, fullest, expert = max(
        (share, block.block, expert) for block in blocks for expert, share in enumerate(block.shares[text])
    )
    width = min(_MOST, max(_LEAST, _WIDEST / count))
    grid = Grid(
        f"Experts that {text} uses, by block",
        f"The most is {share:.1%} of its tokens, at expert {expert} of block {fullest}. Figures are in the table.",
        [(f"block {block.block}", "") for block in blocks],
        [str(each) for each in range(count)],
        [[_cell(block, each, text, top) for each in range(count)] for block in blocks],
        size=(width, _MOST),
        corner="expert",
        name=name,
    )
    caption = f"Rows are blocks, columns are experts. Used equally, each would get {1 / count:.1%} of the tokens."
    return Framed(heat_map(grid), LIKENESS, "no tokens", f"{top:.1%} of the tokens", caption)


def _cell(block: ExpertsUsed, expert: int, text: str, top: float) -> Cell | None:
    if expert >= len(block.shares[text]):
        return None
    shares = {name: of[expert] for name, of in block.shares.items()}
    said = ", ".join(f"{shares[name]:.1%} of {name}" for name in (text, *(each for each in shares if each != text)))
    return Cell(scale(LIKENESS, shares[text], top), title=f"block {block.block}, expert {expert}: {said}")


def used_table(blocks: Sequence[ExpertsUsed]) -> Table:
    """Return how far apart the texts are in each block, and the experts that each uses most."""
    texts = list(blocks[0].shares)
    rows = [(str(each.block), f"{each.apart:.2%}", *map(each.named, texts)) for each in blocks]
    columns = ("block", "routed apart", *(f"most used by {text}" for text in texts))
    return Table("Experts that each text uses", columns, tuple(rows))


def shares_table(blocks: Sequence[ExpertsUsed], text: str) -> Table:
    """Return the share of a text's tokens that each expert gets."""
    rows = [(str(each.block), *(f"{share:.2%}" for share in each.shares[text])) for each in blocks]
    count = _experts(blocks)
    filled = [(*row, *("",) * (count + 1 - len(row))) for row in rows]
    return Table(f"Experts that {text} uses", ("block", *map(str, range(count))), tuple(filled))


def _experts(blocks: Sequence[ExpertsUsed]) -> int:
    """Return the number of experts of the block that has most."""
    return max(len(shares) for block in blocks for shares in block.shares.values())
