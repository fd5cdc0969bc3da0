"""The cut of a mask of tokens: rows of embeddings and head, and every id in the model's files."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import transformers
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.models.model_files import CONFIG
from langprune_cli.models.tensor_entry import TensorEntry
from langprune_cli.models.vocabulary_rows import VocabularyRows, with_default_ids
from langprune_cli.stages.statistics.parts import GENERATION_CONFIG
from langprune_cli.stages.structured.cut import Cut, Masks, as_json, readable
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.tokens.choice import replace_ids
from langprune_cli.tokens.tokenizer_files import trim_files

VOCABULARY_PART = "vocabulary.safetensors"  # of a mask of tokens: the kept ones


def vocabulary_cut(model: OpenedModel, masks: Masks) -> "VocabularyCut":
    """Return the cut of a mask of tokens."""
    stay: list[int] = readable(masks).tensors(VOCABULARY_PART)["stay"].tolist()
    return VocabularyCut(model, VocabularyRows(model.streamed, stay))


@dataclass(frozen=True)
class VocabularyCut(Cut):
    """Cuts a model down to the kept tokens; a token's new id is its place among them."""

    model: OpenedModel
    rows: VocabularyRows

    def entry(self, group: int, name: str, entry: TensorEntry) -> TensorEntry:
        """Return the entry with one row per kept token."""
        return self.rows.entry(name, entry) if group < 0 else entry

    def copies(self, group: int, name: str) -> bool:
        """Return whether the tensor has no row for each token."""
        return group >= 0 or name not in self.rows.names

    def tensor(self, group: int, name: str, tensor: Tensor) -> Tensor:
        """Return the kept rows."""
        return self.rows.tensor(name, tensor) if group < 0 else tensor

    def file(self, name: str, data: bytes) -> bytes | None:
        """Return the configurations and the tokenizer's files with new ids, None for vocabularies in other formats."""
        if name in self._tokenizer_files:
            return self._tokenizer_files[name]
        if name not in {CONFIG, GENERATION_CONFIG}:
            return data
        record = json.loads(data)
        if name == CONFIG:
            record = with_default_ids(record, self.model.streamed.config, self._new)
        try:
            replace_ids(record, self._new)
        except KeyError as error:
            raise LangpruneError(
                f"{self.model.location.folder / name} names the token id {error}, which the mask does not keep: the file changed "
                "after the mask was made, so make the mask again"
            ) from error
        return as_json(self.rows.config(record) if name == CONFIG else record)

    def check(self, folder: Path) -> dict[str, int]:
        """Open the smaller model and its tokenizer, and compare the name of every token with the dense model's.

        Raises LangpruneError if its tensors do not match its configuration, or if a token changed.
        """
        trusted = self.model.compute.trust_remote_code
        opened = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
        before = self.model.tokenizer.get_vocab()
        expected = {token: self._new[old] for token, old in before.items() if old in self._new}
        if opened.get_vocab() != expected:
            raise LangpruneError(
                f"the tokenizer in {folder} cannot be trimmed: its class ({type(opened).__name__}) reads other tokens from the "
                "trimmed files"
            )
        return super().check(folder)

    @cached_property
    def _new(self) -> dict[int, int]:
        return {old: new for new, old in enumerate(self.rows.stay)}

    @cached_property
    def _tokenizer_files(self) -> dict[str, bytes | None]:
        return trim_files(self.model.location.folder, self.rows.stay)
