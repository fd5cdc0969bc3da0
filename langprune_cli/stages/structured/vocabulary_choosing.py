"""`mask --pattern vocab`: chooses which tokens stay, by how often each occurs in the user's languages."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from langprune_cli.models.model_files import CONFIG, tokenizer_digest
from langprune_cli.models.vocabulary_rows import VocabularyRows, image_ids
from langprune_cli.stages.statistics.counted_tokens import needed_token_counts, read_token_counts
from langprune_cli.stages.statistics.parts import GENERATION_CONFIG
from langprune_cli.stages.structured.choosing import Basis, Choosing
from langprune_cli.stages.structured.removals import Removal
from langprune_cli.stages.structured.vocabulary_cut import VOCABULARY_PART
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.store.files import disk_errors
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.streaming.opened_tokenizer import OpenedTokenizer
from langprune_cli.tokens.choice import VocabularyChoice, VocabularyTarget, choose_vocabulary, ids_in
from langprune_cli.tokens.kept_text import VERSION, frame_ids, kept_ids
from langprune_cli.tokens.tokenizer_files import ids_named_in
from langprune_cli.tokens.vocabulary import Vocabulary


def _silent(_choice: VocabularyChoice) -> None:
    """Show nothing."""


def choosing_tokens(
    model: OpenedModel,
    stats: Artifact | None,
    removal: Removal,
    show: Callable[[VocabularyChoice], None] = _silent,
) -> Choosing:
    """Return the choice of tokens.

    show: gets the choice, its coverage and its losses before anything is written.
    Raises LangpruneError for statistics without token counts or of another tokenizer, and for families whose vocabulary cannot
    be trimmed. The work raises it for such tokenizers, and UsageError for a size below the tokens that must stay.
    """
    target = removal.target or VocabularyTarget()
    stats = needed_token_counts(f"--pattern {removal.kind}", stats, model.location)
    rows = VocabularyRows(model.streamed, ())
    rows.names  # noqa: B018 - refuses unsupported families now

    def write(writer: ArtifactWriter) -> dict[str, object]:
        choice = vocabulary_of(model, stats, target, rows.rows)
        show(choice)
        writer.write_tensors(VOCABULARY_PART, {"stay": torch.tensor(choice.stay)})
        weights = sum(map(model.streamed.checkpoint.elements, rows.names))
        return {
            "weights": weights,
            "removed": weights // rows.rows * (rows.rows - len(choice.stay)),
            "vocabulary": choice.record(),
        }

    # Combined counts name each of their texts instead of one language.
    text = {**stats.manifest.inputs.get("text", {}), **stats.manifest.text}
    return Choosing(
        Basis(stats.key, stats.name, {"stats": stats.name, "text": text}),
        params={
            "method": "frequency",
            "pattern": removal.kind,
            "sparsity": removal.sparsity,
            **({"coverage": target.coverage} if target.size is None else {"vocab_size": target.size}),
            "round_to": target.round_to,
            **({"keep_chat": VERSION} if target.keep_chat else {}),
        },
        label=removal.kind,
        write=write,
        inputs={"tokenizer": tokenizer_digest(model.location.folder)},
    )


def vocabulary_of(
    model: OpenedModel | OpenedTokenizer, stats: Artifact, target: VocabularyTarget, rows: int
) -> VocabularyChoice:
    """Return which of a model's `rows` tokens stay; raises as `choose_vocabulary` does.

    Keeps every id that the model's files, class or chat template use; the target decides on ids of chats, Markdown and code.
    """
    folder = model.location.folder
    always = set(ids_named_in(folder)) | frame_ids(model.tokenizer)
    for file in (CONFIG, GENERATION_CONFIG):
        record = json.loads(_bytes_of(folder / file))
        always |= ids_in(record)
        if file == CONFIG:
            always |= {i for i in image_ids(record, model.config) if 0 <= i < rows}
    vocabulary = Vocabulary.opened(model.tokenizer)
    chat = kept_ids(model.tokenizer, vocabulary) if target.keep_chat else None
    return choose_vocabulary(vocabulary, read_token_counts(stats), target, always=always, chat=chat, rows=rows)


def _bytes_of(path: Path) -> bytes:
    with disk_errors(path, reading=True):
        return path.read_bytes() if path.is_file() else b"{}"
