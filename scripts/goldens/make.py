"""Write tests/goldens: what literal float64 references make of two small models, for the tests to compare with.

    python -m scripts.goldens.make

Of langprune it takes the demo's weights, text and tokenizer, nothing else. No mask depends on a processor's rounding: each choice
on the drawn model is clear by `CLEAR`, a hundred times float32's error. The demo model has a few choices that are not. They are
listed, and the tests leave them out.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from scripts.goldens.subjects import LANGUAGES, demo_windows, literal_demo, literal_pico
from tests.reference.llama import SITES, Llama, Matrix, Tokens
from tests.reference.pruning import Pruned, Target, inverse_factor, magnitude, sparsegpt, wanda
from tests.support.paths import GOLDENS

MASKS, FIGURES = "{}.safetensors", "figures.json"

CLEAR = 1e-4  # by which share of a score each choice on the drawn model is clear, and each that counts on the demo's
TARGETS = {"0.5": Target("0.5"), "2x4": Target(keep_of=(2, 4)), "4x8": Target(keep_of=(4, 8))}

# Propagation "dense": all statistics are the dense model's. "pruned": each block's come through the pruned blocks before it.
PICO_CASES = [("dense", method, pattern) for method in ("magnitude", "wanda") for pattern in TARGETS]
PICO_CASES += [("pruned", method, pattern) for method in ("wanda", "sparsegpt") for pattern in TARGETS]
DEMO_CASES = [("dense", "wanda", "0.5"), ("dense", "wanda", "2x4"), ("pruned", "sparsegpt", "2x4")]
DEMO_BLOCKS = (0, 5)  # whose masks are kept: all of them would be 200 KB a case

Arrays = dict[str, NDArray[np.generic]]
Solve = Callable[[Matrix, Matrix], Pruned]  # a weight [o, i], and the inputs it reads [t, i]


@dataclass(frozen=True)
class Golden:
    """One model after pruning: of each linear what is left, by its name in the checkpoint."""

    model: Llama
    linears: dict[str, Pruned]

    @property
    def gap(self) -> float:
        """How clear the least clear choice was."""
        return min(each.gap for each in self.linears.values())


def solver(method: str, pattern: str) -> Solve:
    """Return what prunes one linear."""
    target = TARGETS[pattern]
    return {
        "magnitude": lambda w, _x: magnitude(w, target, CLEAR),
        "wanda": lambda w, x: wanda(w, (x**2).sum(axis=0), target, CLEAR),
        "sparsegpt": lambda w, x: sparsegpt(w, inverse_factor(x.T @ x), target),
    }[method]


def pruned(model: Llama, windows: Tokens, case: tuple[str, str, str], *, blocks: int | None = None) -> Golden:
    """Prune a model, or its first blocks, in place: all linears of a block at once, then the next block."""
    propagation, method, pattern = case
    solve, linears, weights = solver(method, pattern), dict[str, Pruned](), dict(model.weights)
    states = [model.embed(ids) for ids in windows]
    for index in range(model.shape.blocks if blocks is None else blocks):
        read: dict[str, list[Matrix]] = {site: [] for site in SITES}
        after = [model.block(index, x, lambda site, rows, read=read: read[site].append(rows)) for x in states]
        found = {}
        for site, names in SITES.items():
            inputs = np.concatenate(read[site])
            for name in (f"model.layers.{index}.{each}.weight" for each in names):
                found[name] = solve(model.weights[name], inputs)
        linears |= found
        weights |= {name: each.weight for name, each in found.items()}
        if propagation == "pruned":
            model.weights.update(weights)
            after = [model.block(index, x) for x in states]
        states = after
    model.weights.update(weights)
    return Golden(model, linears)


def packed(golden: Golden, prefix: str) -> Arrays:
    """Return keep masks as docs/format.md has them: column 8k + b is bit b of byte k."""
    return {
        f"{prefix}/{name}": np.packbits(each.keep, axis=1, bitorder="little") for name, each in golden.linears.items()
    }


def pico_goldens() -> Iterator[tuple[str, Golden, dict[str, float]]]:
    """Yield each case of the drawn model: its name, the pruned model, its figures."""
    for case in PICO_CASES:
        model, windows = literal_pico()
        golden = pruned(model, windows.calibration, case)
        gap = float(f"{golden.gap:.3g}")
        yield "/".join(case), golden, measured(golden.model, {"ppl": windows.test}) | {"gap": gap}


def demo_texts() -> dict[str, Tokens]:
    """Return the windows that the demo model is calibrated on and evaluated on."""
    return {
        f"windows/{language}.{part}": demo_windows(language, part, 32)
        for language in LANGUAGES
        for part in ("calib", "test")
    }


def measured(model: Llama, texts: dict[str, Tokens]) -> dict[str, float]:
    """Return perplexities to the digits that do not depend on the order of sums."""
    return {name: round(model.perplexity(ids), 9) for name, ids in texts.items()}


def demo_masks(golden: Golden, prefix: str) -> Arrays:
    """Return the masks that are kept of a case, and the places of weights that rounding may turn."""
    kept = {name: each for name, each in golden.linears.items() if int(name.split(".")[2]) in DEMO_BLOCKS}
    near = {f"near/{prefix}/{name}": np.flatnonzero(each.near).astype(np.int32) for name, each in kept.items()}
    return packed(Golden(golden.model, kept), prefix) | {name: each for name, each in near.items() if each.size}


def main() -> None:
    """Write all of it."""
    GOLDENS.mkdir(exist_ok=True)
    model, windows = literal_pico()
    figures: dict[str, dict[str, dict[str, float]]] = {
        "pico": {"dense": measured(model, {"ppl": windows.test})},
        "demo": {},
    }
    masks: Arrays = {}
    for name, golden, figure in pico_goldens():
        figures["pico"][name] = figure
        masks |= packed(golden, name)
        print(f"pico {name}: ppl {figure['ppl']:.4f}, every choice clear by {golden.gap:.1e}")
        if golden.gap < CLEAR:
            raise SystemExit(f"{name} has a choice that is clear by {golden.gap:.1e} only: try another SEED")
    save_file(masks, GOLDENS / MASKS.format("pico"))

    texts = demo_texts()
    masks = {name: ids.astype(np.int32) for name, ids in texts.items()}
    tests = {language: texts[f"windows/{language}.test"] for language in LANGUAGES}
    dense = literal_demo()
    figures["demo"]["dense"] = measured(dense, tests)
    for case in DEMO_CASES:
        for language in LANGUAGES:
            name = "/".join((language, *case))
            golden = pruned(literal_demo(), texts[f"windows/{language}.calib"], case)
            figures["demo"][name] = measured(golden.model, tests)
            print(f"demo {name}: {figures['demo'][name]}")
            if case == ("dense", "wanda", "0.5"):
                masks |= demo_masks(golden, name)
    save_file(masks, GOLDENS / MASKS.format("demo"))
    (GOLDENS / FIGURES).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
