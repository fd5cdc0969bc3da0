"""Measures whether removing blocks equals making them do nothing."""

import copy
import json
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError, first_line
from langprune_cli.models.model_files import CONFIG
from langprune_cli.models.narrowing import attention_blocks, opened_as
from langprune_cli.models.protocols import CausalModel, Configuration
from langprune_cli.models.skeleton import build_skeleton, parameter_shapes
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.stages.structured.narrowed import narrowing_of
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.streaming.walk import HiddenStates

_TOKENS = 24
_WINDOW = 8  # tokens that a block with a sliding window looks back over: fewer than _TOKENS
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
_ROUNDING = 1e-5  # largest difference over largest value, float32; the same operations mostly give the same bits


def check_first_run(model: OpenedModel, count: int) -> None:
    """Raise LangpruneError if the first `count` blocks cannot be removed, as `check_without` decides it.

    This shows whether anything depends on a block's number or on their count, since all kept blocks get another number. Of a
    hybrid, one block with attention is among the kept ones: which blocks will really be removed is not known yet.
    """
    stay = list(range(count, len(model.streamed.blocks)))
    attention = attention_blocks(model.streamed.config.get_text_config())
    if attention and attention[-1] < count:
        stay = [attention[-1], *stay[1:]]
    check_without(model, stay)


def check_without(model: OpenedModel, stay: Sequence[int]) -> None:
    """Raise LangpruneError if the model of the blocks `stay` differs from the dense one whose other blocks pass on their input.

    Two dozen tokens go through both, in float32, with the checkpoint's weights; each block of the smaller model gets the same
    input as its original. Reads each kept block twice. Memory: one block, or embeddings and head, in float32.
    Each choice of blocks is checked once per opened model.
    """
    stay = tuple(stay)
    if stay in model.fit_to_stay:
        return
    narrowing = narrowing_of(model, (), {}, stay)
    folder, dense = model.location.folder, model.streamed
    config = opened_as(dense.config, narrowing.config(json.loads((folder / CONFIG).read_bytes()), dense.config))
    names = {name: narrowing.leftover(name) for name in dense.outside_names()}
    names |= {name: narrowing.name(name, index) for index in stay for name in dense.tensor_names(index)}
    checkpoint = dense.checkpoint.renamed({old: new for old, new in names.items() if new})
    trusted = model.compute.trust_remote_code
    build = partial(StreamedModel, dtype=torch.float32, device=dense.device, trust_remote_code=trusted)
    try:
        whole = build(folder, config=_looking_back_less(dense.config), checkpoint=dense.checkpoint)
        config = _looking_back_less(config)
        skeleton = build_skeleton(config, torch.float32, trust_remote_code=trusted, names=checkpoint.tensors.keys())
        check_shapes(whole.model, skeleton, stay)  # before its tensors are looked for
        smaller = build(folder, config=config, checkpoint=checkpoint)
        _compare(whole, smaller, stay)
    except Exception as error:
        cause = error.__cause__ if isinstance(error, LangpruneError) else error
        if cause is None or isinstance(cause, OSError):
            raise
        raise _refusal(dense.config, f"the smaller model does not run: {first_line(cause)}") from error
    model.fit_to_stay.add(stay)


def check_shapes(dense: CausalModel, smaller: CausalModel, stay: Sequence[int]) -> None:
    """Raise LangpruneError if the smaller skeleton's parameters differ from the dense one's kept parameters."""
    here, wanted = parameter_shapes(dense), parameter_shapes(smaller)
    expected = [here[-1], *(here[index] for index in stay)]
    for place, (one, other) in enumerate(zip(expected, [wanted[-1], *wanted[:-1]], strict=True)):
        differs = next((path for path in one | other if one.get(path) != other.get(path)), None)
        if differs:
            where = f"of block {stay[place - 1]} " if place else ""
            was, would = (str(list(each[differs])) if differs in each else "none" for each in (one, other))
            raise _refusal(dense.config, f"the smaller model expects {differs} {where}as {would}, and it is {was}")


def _compare(whole: StreamedModel, smaller: StreamedModel, stay: Sequence[int]) -> None:
    size = whole.config.get_text_config().vocab_size
    ids = ((torch.arange(1, _TOKENS + 1) * 7919) % size)[None]  # spread over the vocabulary
    one, other = (HiddenStates(each, ids, _TOKENS) for each in (whole, smaller))
    _same(whole.config, one.hidden[0], other.hidden[0], "the input of the first block")
    for place, index in enumerate(stay):
        other.hidden = [one.hidden[0]]
        with smaller.block(place) as block:
            other.forward(block)
        with whole.block(index) as block:
            one.forward(block)
        _same(whole.config, one.hidden[0], other.hidden[0], f"the output of block {index} as block {place}")
    other.hidden = [one.hidden[0]]
    # One after the other: each holds torch.no_grad() while it runs.
    of_whole, of_smaller = ([logits for _, _, logits in each.logits()] for each in (one, other))
    for logits, others in zip(of_whole, of_smaller, strict=True):
        _same(whole.config, logits, others, "the logits")


def _same(config: Configuration, x: Tensor, y: Tensor, what: str) -> None:
    finite = torch.isfinite(x)
    difference = float((x - y)[finite].abs().max()) if finite.any() else 0.0
    largest = float(x[finite].abs().max()) if finite.any() else 0.0
    if not torch.equal(finite, torch.isfinite(y)) or difference > _ROUNDING * largest:
        share = f"by {difference / largest:.2g} of its largest value" if largest else "from nothing"
        raise _refusal(config, f"{what} differs {share} from the dense model's with these blocks doing nothing")


def _refusal(config: Configuration, what: str) -> LangpruneError:
    return LangpruneError(
        f"Blocks of this {config.get_text_config().model_type} cannot be removed, since the others' computation depends on "
        f"their number or on the number of blocks ({what}): prune it with another pattern"
    )


def _looking_back_less(config: Configuration) -> Configuration:
    """Return a configuration with windows shorter than the text; otherwise blocks with and without windows compute the same."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    for key in _WINDOWS:
        if (getattr(text, key, None) or 0) > _WINDOW:
            setattr(text, key, _WINDOW)
    return config
