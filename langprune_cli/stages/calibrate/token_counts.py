"""`calibrate --collect tokens`: counts how often each token occurs in a text, with the tokenizer alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

from langprune_cli.defaults import MAX_TOKENS
from langprune_cli.stages.calibrate.calibrate import name_among, stats_name
from langprune_cli.stages.statistics.counted_tokens import counts_part, counts_record, counts_tensors, read_counts_part
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, Outcome, Reporter, run_stage
from langprune_cli.store.files import need_space
from langprune_cli.store.target import TARGET, Target
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened_tokenizer import OpenedTokenizer
from langprune_cli.text.corpora import source_name
from langprune_cli.text.sources import read_documents, source_fingerprint, source_for
from langprune_cli.text.windows import calibration_windows, hub_note, is_given
from langprune_cli.tokens.counting import TokenCounts, batches, count_batch, count_windows
from langprune_cli.types import TextSpec, Windows

_FINGERPRINTED = 64  # bytes of files per requested token: a token takes 3 to 6, and records may hold more than text


@dataclass(frozen=True)
class _Text:
    """A text to count, with its label inside an artifact and its identity."""

    spec: TextSpec
    source: str
    fingerprint: str
    windows: Windows | None  # of a file of token ids

    @property
    def label(self) -> str:
        return self.spec.language or source_name(self.spec.source)


def count_tokens(
    workspace: Workspace,
    model: OpenedTokenizer,
    specs: Sequence[TextSpec],
    reporter: Reporter,
    *,
    max_tokens: int = MAX_TOKENS,
    to: Target = TARGET,
) -> list[Outcome]:
    """Make one stats artifact for each text: the counts of its first documents, up to `max_tokens` tokens.

    The last document counts whole. Raises LangpruneError for unreadable text, before counting if possible.
    """
    texts = [_identified(spec, model, max_tokens, reporter) for spec in specs]
    return [
        run_stage(
            _recipe(model, text, max_tokens),
            Destination.of(
                workspace,
                stats_name(text.spec, "tokens"),
                replace(to, name=name_among(to.name, text.spec, len(texts))),
            ),
            partial(_count, model=model, text=text, max_tokens=max_tokens, reporter=reporter),
        )
        for text in texts
    ]


def _identified(spec: TextSpec, model: OpenedTokenizer, max_tokens: int, reporter: Reporter) -> _Text:
    if is_given(spec.source):
        windows = calibration_windows(
            spec, None, nsamples=1, seqlen=2, seed=0, sampling="document", vocab_size=model.vocab_size
        )
        for note in windows.notes:
            reporter.note(note)
        return _Text(spec, spec.source, windows.fingerprint, windows)
    source = source_for(spec.source, evaluation=False)
    return _Text(spec, source, source_fingerprint(source, _FINGERPRINTED * max_tokens), None)


def _recipe(model: OpenedTokenizer, text: _Text, max_tokens: int) -> Recipe:
    return Recipe(
        "stats",
        inputs={
            "tokenizer": model.digest,
            "text": {"language": text.spec.language, "name": text.label, "fingerprint": text.fingerprint},
        },
        params={"collect": ["tokens"], "max_tokens": max_tokens, "vocab_size": model.vocab_size},
        about={"model": model.location.about, "text": {"source": text.spec.source}},
        environment=model.environment(),
    )


def _count(
    writer: ArtifactWriter, *, model: OpenedTokenizer, text: _Text, max_tokens: int, reporter: Reporter
) -> Artifact:
    need_space(writer.folder, 8 * model.vocab_size)
    if writer.manifest.parts:
        reporter.note(f"Resuming {writer.folder.name}: {len(writer.manifest.parts)} parts are on disk.")
    reporter.begin(f"count {writer.folder.name}", 0, max_tokens)
    whole = TokenCounts.zeros(model.vocab_size)
    for counted in _parts(writer, model, text, max_tokens, reporter):
        whole += counted
    reporter.end()
    if whole.tokens < max_tokens:
        reporter.note(f"The text {text.label} has only {whole.tokens:,} of {max_tokens:,} tokens.")
        for note in hub_note(text.source, whole.documents, whole.bytes):
            reporter.note(note)
    return writer.finish(counted={text.label: counts_record(whole)})


def _parts(
    writer: ArtifactWriter, model: OpenedTokenizer, text: _Text, max_tokens: int, reporter: Reporter
) -> Iterator[TokenCounts]:
    """Yield the counts of each part: read from disk if an interrupted run left it, else counted and written.

    Parts begin and end at the same documents in every run, so counted text is skipped.
    """
    if text.windows:
        if not writer.has(counts_part(0)):
            counted = count_windows(model.tokenizer, text.windows.ids, model.vocab_size, max_tokens)
            writer.write_tensors(counts_part(0), counts_tensors(text.label, counted))
        yield read_counts_part(Artifact(writer.folder, writer.manifest), counts_part(0))[text.label]
        return
    left = max_tokens
    for number, part in groupby(batches(read_documents(text.source)), key=lambda batch: batch.part):
        if writer.has(counts_part(number)):
            counted = read_counts_part(Artifact(writer.folder, writer.manifest), counts_part(number))[text.label]
            reporter.tick(0, counted.tokens)
        else:
            counted = TokenCounts.zeros(model.vocab_size)
            for batch in part:
                new = count_batch(model.tokenizer, batch, model.vocab_size, left - counted.tokens)
                counted += new
                reporter.tick(0, new.tokens)
                if counted.tokens >= left:
                    break
            writer.write_tensors(counts_part(number), counts_tensors(text.label, counted))
        yield counted
        left -= counted.tokens
        if left <= 0:
            return
