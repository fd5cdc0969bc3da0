"""What a user does with a model, by pattern, and whether the result is what it has to be.

Each check raises LangpruneError where langprune refuses, and AssertionError where something is wrong. It returns the pruned
model, of which `eval` is asked afterwards, for all patterns at once.
"""

import json
import shutil
from collections.abc import Callable, Sequence

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.units.experts import expert_rows
from tests.reference.routing import Unpicked
from tests.survey.stock import Request
from tests.survey.subject import Pruned, Subject, close, mask_of, numbers, read_tensors, same

Check = Callable[[Subject], Pruned | None]
NORM = "works, but a norm over all units is over those that stay, which is another number"


def stream(subject: Subject) -> None:
    """Check that `eval` says of the dense model what stock transformers computes."""
    subject.check_dense()


def weights(pattern: str) -> Check:
    """Return the check of a pattern of single weights: exact zeros, all else byte by byte."""

    def check(subject: Subject) -> Pruned:
        made = subject.prune(pattern, "wanda")
        expected = subject.masked(mask_of(made), share=0.5)
        after = read_tensors(made.folder)
        assert after.keys() == expected.keys(), after.keys() ^ expected.keys()
        for name, tensor in after.items():
            alike = tensor.dtype == expected[name].dtype and torch.equal(_as_bits(tensor), _as_bits(expected[name]))
            assert alike, f"{name} is not as the mask says"
        for path in subject.folder.iterdir():
            if path.suffix in {".json", ".jinja", ".txt", ".model"} and "index" not in path.name:
                assert (made.folder / path.name).read_bytes() == path.read_bytes(), f"{path.name} differs"
        return Pruned(made.name, subject.runs(made.folder).nats)

    return check


def units(pattern: str) -> Check:
    """Return the check of a pattern of units of every block: the dense model with their readers' columns zero, but smaller."""

    def check(subject: Subject) -> Pruned:
        made = subject.prune(pattern, "magnitude")
        zeroed = subject.masked(mask_of(made))
        found, after = subject.runs(made.folder), read_tensors(made.folder)
        assert numbers(after) < numbers(subject.tensors)
        if any(
            "norm" in name and each.dim() == 1 and len(each) < len(subject.tensors[name])
            for name, each in after.items()
        ):
            return Pruned(made.name, found.nats, NORM)
        folder = subject.place / "zeroed"
        shutil.copytree(subject.folder, folder, ignore=shutil.ignore_patterns("*.safetensors*"), dirs_exist_ok=True)
        save_file(zeroed, folder / "model.safetensors", metadata={"format": "pt"})
        same(found, subject.ask(Request(subject.kind, folder, subject.windows)))
        return Pruned(made.name, found.nats)

    return check


def experts(subject: Subject) -> Pruned:
    """Check the model of fewer experts against the dense one whose router never picks those that left."""
    made = subject.prune(_possible(subject, (0.25, 0.5)), "reap", update=None)
    record = json.loads((mask_of(made).folder / "experts.json").read_bytes())
    rows = expert_rows(subject.streamed.config)
    unpicked = []
    for index, each in record["blocks"].items():
        gone = tuple(expert for expert in range(record["experts"]) if expert not in each["stay"])
        assert gone, f"all experts of block {index} stay"
        unpicked.append(Unpicked(int(index), gone, rows.rows))
    found = subject.runs(made.folder)
    dense = Request(subject.kind, subject.folder, subject.windows, blocks=subject.blocks, unpicked=unpicked)
    same(found, subject.ask(dense))
    assert numbers(read_tensors(made.folder)) < numbers(subject.tensors)
    return Pruned(made.name, found.nats)


def _possible(subject: Subject, shares: Sequence[float]) -> str:
    """Return the pattern of the first share of experts that can leave; raises LangpruneError as langprune does."""
    rows = expert_rows(subject.streamed.config)
    for share in shares[:-1]:
        try:
            rows.left(share)
        except LangpruneError:
            continue
        return f"experts:{share}"
    return f"experts:{shares[-1]}"


def blocks(subject: Subject) -> Pruned:
    """Check the model without a block against the dense one in which it does nothing."""
    made = subject.prune("blocks:0.25", "influence", update=None)
    removed = tuple(json.loads((mask_of(made).folder / "blocks.json").read_bytes())["removed"])
    found = subject.runs(made.folder)
    dense = Request(subject.kind, subject.folder, subject.windows, blocks=subject.blocks, idle=removed)
    same(found, subject.ask(dense))
    assert numbers(read_tensors(made.folder)) < numbers(subject.tensors)
    return Pruned(made.name, found.nats)


def vocabulary(subject: Subject) -> None:
    """Check that tokens that stay have the logits that they had."""
    made = subject.prune("vocab", None, update=None)
    stay = load_file(mask_of(made).folder / "vocabulary.safetensors")["stay"]
    # By their new numbers; special tokens come elsewhere.
    windows = torch.arange(len(stay) // 24 * 24).view(-1, 24)[1:5]
    found = subject.runs(made.folder, windows)
    dense = subject.ask(Request(subject.kind, subject.folder, stay[windows]))
    assert found.logits.shape[-1] < dense.logits.shape[-1], "no token leaves"
    torch.testing.assert_close(found.logits[..., : len(stay)], dense.logits[..., stay], rtol=1e-5, atol=1e-5)
    kept = subject.evaluate(subject.text, made.name)
    read = load_file(kept.folder / "windows-0-1.safetensors")["windows"].long()
    nats = subject.ask(Request(subject.kind, made.folder, read)).nats
    close(kept.rows[1]["nats"], nats, "eval of the pruned model")


# What the table has a column for.
CHECKS: dict[str, Check] = {
    "stream": stream,
    "weights": weights("unstructured"),
    "2:4": weights("2:4"),
    "channels": units("channels:0.25"),
    "KV groups": units("kv-groups:0.5"),
    "experts": experts,
    "blocks": blocks,
    "vocabulary": vocabulary,
}


def _as_bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor
