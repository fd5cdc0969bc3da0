"""The evaluation text in the tokens of each model; a trimmed vocabulary splits it differently."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

from langprune_cli.defaults import HUB_WINDOWS
from langprune_cli.numerics.nats import perplexity
from langprune_cli.stages.evaluate.rows import CellRow, PerOriginalToken
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.text.hub import HUB_PREFIX
from langprune_cli.text.window_cache import kept_windows
from langprune_cli.text.windows import evaluation_windows, is_given, retokenized
from langprune_cli.tokens.token_bytes import predicted_bytes
from langprune_cli.types import TextSpec, Windows

# A hub corpus has millions of tokens; the published evaluation on C4 uses its first 256 windows.


@dataclass(frozen=True)
class EvaluationText:
    """One text in windows of tokens, for each vocabulary."""

    original: OpenedModel  # figures of other vocabularies count per its tokens
    windows: Mapping[str, Windows]  # by vocabulary, the original's first

    @property
    def reference(self) -> Windows:
        """Return the windows in the original's tokens."""
        return next(iter(self.windows.values()))

    def of(self, model: OpenedModel) -> Windows:
        """Return a model's windows."""
        return self.windows[model.vocabulary]


class _Settled(TypedDict):
    """The settings of cutting windows, besides the text and the tokenizer."""

    seqlen: int
    max_windows: int | None
    vocab_size: int


def evaluation_text(
    models: Sequence[OpenedModel], spec: TextSpec, reporter: Reporter, *, seqlen: int | None, max_windows: int | None
) -> EvaluationText:
    """Return a text's windows in the tokens of each model; the first model is the original.

    Given ids are the original's; for another vocabulary their text is tokenized again. Raises LangpruneError for text that is
    unreadable or shorter than a window, and for windows longer than a model's context.
    """
    original, given = models[0], is_given(spec.source)
    length = 0 if given else original.seqlen(seqlen, reporter)
    most = max_windows or (HUB_WINDOWS if spec.source.startswith(HUB_PREFIX) else None)
    found: dict[str, Windows] = {}
    for model in models:
        vocabulary = model.vocabulary
        if vocabulary not in found:
            if given and found:
                windows = retokenized(found[original.vocabulary], original.tokenizer, model.tokenizer)
            else:
                vocab_size = model.streamed.config.get_text_config().vocab_size
                settled = _Settled(seqlen=length, max_windows=most, vocab_size=vocab_size)
                windows = kept_windows(
                    spec,
                    {"for": "evaluation", "tokenizer": vocabulary, **settled},
                    partial(evaluation_windows, spec, None if given else model.tokenizer, **settled),
                    reporter,
                )
            found[vocabulary] = windows
            for note in windows.notes:
                reporter.note(note)
        model.check_windows(found[vocabulary])
    return EvaluationText(original, found)


def per_original_token(text: EvaluationText, model: OpenedModel, row: CellRow) -> PerOriginalToken:
    """Return {"ppl_per_original_token"} for a model with another vocabulary than the original's; {} for others.

    This is exp(nats per byte x bytes per original token), which is comparable across vocabularies. None if the bytes of tokens
    are unknown.
    """
    windows = text.of(model)
    if windows is text.reference:
        return {}
    tokens = text.reference.count * (text.reference.seqlen - 1)
    original = predicted_bytes(text.original.tokenizer, text.reference.ids)
    own = predicted_bytes(model.tokenizer, windows.ids)
    if not own or not original:
        return {"ppl_per_original_token": None}
    ppl = perplexity(row["nats"] * row["tokens"] * original / own, tokens)
    return {"ppl_per_original_token": ppl if math.isfinite(ppl) else None}
