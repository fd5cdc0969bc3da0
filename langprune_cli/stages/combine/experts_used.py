"""`compare` for statistics of a mixture: which experts each text uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from langprune_cli.stages.statistics.routing import routing_in
from langprune_cli.store.artifact import Artifact

_MOST_NAMED = 4  # experts of a block and a text


@dataclass(frozen=True)
class ExpertsUsed:
    """The experts of one block, and how much each text uses them."""

    block: int
    shares: dict[str, tuple[float, ...]]  # text -> share of its routed tokens that each expert gets

    @property
    def apart(self) -> float:
        """Return the share of tokens that would have to go to other experts for two texts to be alike: the largest of all pairs.

        Half the sum of differences of shares, the total variation distance: 0 if all are alike, 1 if no expert is shared.
        """
        pairs = combinations(self.shares.values(), 2)
        return max(sum(abs(x - y) for x, y in zip(one, other, strict=True)) / 2 for one, other in pairs)

    def most(self, text: str) -> list[tuple[int, float]]:
        """Return the experts that a text uses, with their shares, the most used first."""
        used = [(expert, share) for expert, share in enumerate(self.shares[text]) if share]
        return sorted(used, key=lambda each: -each[1])

    def named(self, text: str) -> str:
        """Return the few experts that a text uses most, for a table: "5 (22%), 1 (20%)"."""
        return ", ".join(f"{expert} ({share:.0%})" for expert, share in self.most(text)[:_MOST_NAMED])

    def record(self) -> dict[str, object]:
        """Return all shares for JSON."""
        return {
            "block": self.block,
            "apart": self.apart,
            "shares": {text: list(of) for text, of in self.shares.items()},
        }


def experts_used(stats: Sequence[Artifact]) -> tuple[ExpertsUsed, ...]:
    """Return what each block's router did with the texts of two or more statistics; nothing if some do not hold it."""
    routings = {each.name: routing_in(each) for each in stats}
    blocks = [index for index in next(iter(routings.values())) if all(index in each for each in routings.values())]
    found = []
    for index in blocks:
        tokens = {name: each[index].tokens for name, each in routings.items()}
        if len({len(each) for each in tokens.values()}) == 1 and len(tokens) > 1:
            shares = {name: tuple((each.double() / each.sum().clamp(min=1)).tolist()) for name, each in tokens.items()}
            found.append(ExpertsUsed(index, shares))
    return tuple(found)
