"""How recovered models were trained: the loss over the tokens read, as a line chart, a table and a sentence."""

from itertools import pairwise

from markupsafe import Markup

from langprune_cli.stages.recover.looks import Look
from langprune_cli.stages.report.report import Recovered
from langprune_cli.stages.report.svg import Line, LineChart, Point, line_chart
from langprune_cli.stages.report.tables import Table

_TRAINED = {"all": "all weights", "lora": "matrices of low rank", "norms": "norms and biases"}
_ROUND = ((10**9, "B"), (10**6, "M"), (10**3, "k"))


def curve(found: Recovered, name: str) -> Markup:
    """Return the losses of a training over the tokens that it read. name: begins the ids of the figure."""
    looks = found.looks
    held = [_of_held_out(look) for look in looks]
    read = [
        _of_read(before, look["tokens"], look["loss"]) for before, look in pairwise(looks) if look["loss"] is not None
    ]
    lines = [Line("on held-out windows", "held", held), Line("on what it read", "taught", read)]
    ends = max(each.across for each in held), max(each.up for each in (*held, *read))
    chart = LineChart(
        f"Loss of {found.model.name} by tokens",
        f"{sentence(found)} Figures are in the table.",
        [line for line in lines if line.points],
        ends,
        (_tokens(looks[-1]["tokens"]), f"{ends[1]:.3g}"),
        held[found.kept],
        name,
    )
    return line_chart(chart)


def sentence(found: Recovered) -> str:
    """Return what training brought, and which step was kept."""
    looks, kept = found.looks, found.looks[found.kept]
    what = _TRAINED.get(found.model.manifest.params.get("train") or "", "weights")
    read = f"Trained {what} on {looks[-1]['tokens']:,} tokens"
    if not found.kept:
        return f"{read}; no step was better than {looks[0]['held_out']:.4f} before, so nothing was changed."
    came = f"{looks[0]['held_out']:.4f} before, {kept['held_out']:.4f} after {kept['tokens']:,} tokens"
    return f"{read}: on held-out windows {came}, which is the step that was kept."


def looks_table(found: Recovered) -> Table:
    """Return every look at the held-out windows."""
    rows = [
        (
            f"{look['tokens']:,}",
            "" if look["loss"] is None else f"{look['loss']:.4f}",
            f"{look['held_out']:.4f}",
            "kept" if number == found.kept else "",
        )
        for number, look in enumerate(found.looks)
    ]
    return Table(f"Training of {found.model.name}", ("tokens", "loss", "on held-out windows", "step"), tuple(rows))


def _of_held_out(look: Look) -> Point:
    return Point(
        look["tokens"], look["held_out"], f"{look['tokens']:,} tokens: {look['held_out']:.4f} on held-out windows"
    )


def _of_read(before: Look, tokens: int, loss: float) -> Point:
    """Return a mean over the tokens since the look before, halfway between the two."""
    what = f"{before['tokens']:,} to {tokens:,} tokens: {loss:.4f} on what it read"
    return Point((before["tokens"] + tokens) / 2, loss, what)


def _tokens(count: int) -> str:
    """Return a number of tokens in few letters: 246k tokens."""
    size, unit = next(((size, unit) for size, unit in _ROUND if count >= size), (1, ""))
    return f"{count / size:.3g}{unit} tokens"
