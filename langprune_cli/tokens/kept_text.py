"""Tokens of chats, Markdown and code: rare in plain text, but an instruct model needs them.

Kept are the white space and the punctuation of a vocabulary, all that its chat template writes, and what the words of
a short list become at a line's start, within a line, in a fence and in code. A base model has no template; the rest is
kept for it too, since Markdown and code are among what it was trained on.
"""

import re
import string
from collections.abc import Iterator, Sequence
from contextlib import suppress

import jinja2
from jinja2 import nodes

from langprune_cli.tokens.encoding import encode_bare
from langprune_cli.tokens.tokenizer import Tokenizer
from langprune_cli.tokens.vocabulary import Vocabulary

VERSION = 1  # part of a mask's key: another number where other tokens are kept

_ROLES = ("system", "user", "assistant", "tool")
_SAMPLES = {
    "system": "You are a helpful assistant.",
    "user": "Hello! How are you?\n\n- one\n- two",
    "assistant": "Hello.\n\n```python\nprint(1)\n```\n",
    "tool": '{"name": "search", "result": [1, 2.5, true, null]}',
}
_TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search the web.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "What to search for."}},
            "required": ["query"],
        },
    },
}
_GENERATION = re.compile(
    r"\{%-?\s*(end)?generation\s*-?%\}"
)  # a tag of transformers' own, which marks what is trained on

# Months and days, since some templates write the date: what is kept is not to depend on the day of the run.
_WORDS = """
system user assistant tool developer human function model think answer question instruction input output response
hello hi hey thanks thank please sorry yes no ok sure of course certainly welcome here is are am I you you're I'm it's don't
January February March April May June July August September October November December
Jan Feb Mar Apr Jun Jul Aug Sep Oct Nov Dec Monday Tuesday Wednesday Thursday Friday Saturday Sunday today date
note example step steps summary list table code title heading link image bold
"""
_CODE = """
python py javascript js typescript ts java c cpp csharp go rust ruby php sql html css xml yaml toml json bash sh shell
console text txt markdown md diff latex math
def class return import from as if else elif for while in not and or is None True False null true false self print len
range str int float bool dict list set tuple try except finally raise with lambda yield pass break continue async await
function const let var new this void public private static final int string number array object type interface
include main std struct enum select insert update delete where and name value key id data file path url http https www
com org error message result test args i j k n x y
"""
_ACRONYMS = "JSON HTML CSS XML YAML SQL API URL HTTP HTTPS PDF CSV ID TODO AI LLM GPU CPU README USA UTC"
_TYPOGRAPHY = "–—‘’“”„«»…•·→←≤≥≠×°€£©§"


def frame_ids(tokenizer: Tokenizer) -> set[int]:
    """Return the ids that a tokenizer's chat template writes around messages; none without a template."""
    return _ids(tokenizer, list(_rendered(tokenizer, dict.fromkeys(_ROLES[:3], ""), ())))


def kept_ids(tokenizer: Tokenizer, vocabulary: Vocabulary) -> set[int]:
    """Return the ids of white space, punctuation, the chat template and the short list of words."""
    texts = [*_rendered(tokenizer, _SAMPLES, (_TOOL,)), *_template_strings(tokenizer), *_listed()]
    return _marks(vocabulary) | _ids(tokenizer, texts)


def _ids(tokenizer: Tokenizer, texts: list[str]) -> set[int]:
    return {i for ids in encode_bare(tokenizer, texts) for i in ids} if texts else set()


def _marks(vocabulary: Vocabulary) -> set[int]:
    """Return the ids of pieces of ASCII white space and punctuation only, of any length."""
    if vocabulary.kind == "byte-level BPE":
        # Bytes up to the space stand at U+0100 and on; `_listed` has the marks of several bytes.
        marks = {*string.punctuation, *(chr(0x100 + ord(c)) for c in string.whitespace)}
    else:
        marks = {*string.punctuation, *string.whitespace, *_TYPOGRAPHY, vocabulary.space or " "}
    return {i for piece, i in vocabulary.pieces.items() if marks.issuperset(piece)}


def _listed() -> Iterator[str]:
    """Yield the words as they occur in chats and code: tokenizers join a word with a space or mark before it."""
    for word in (*_WORDS.split(), *_CODE.split(), *_ACRONYMS.split()):
        for form in dict.fromkeys((word, word[0].upper() + word[1:])):
            yield from (form, f" {form}", f"\n{form}", f"**{form}", f"# {form}:")
    for word in (*_CODE.split(), *_ACRONYMS.split()):
        for before in ("```", "`", "(", ".", "_", "\t", '"', "'", "<", "</"):
            yield f"{before}{word}"
    for mark in _TYPOGRAPHY:
        yield from (mark, f" {mark}", f"a{mark} ", f"a{mark}s")


def _rendered(tokenizer: Tokenizer, contents: dict[str, str], tools: Sequence[object]) -> Iterator[str]:
    """Yield sample conversations rendered by the chat template; templates may refuse system, assistant or tool messages."""
    if not getattr(tokenizer, "chat_template", None):
        return
    roles = tuple(contents)
    for chosen in dict.fromkeys((roles, roles[:3], roles[1:3], roles[1:2])):
        messages = [{"role": role, "content": contents[role]} for role in chosen]
        for prompt in (True, False):
            for offered in (None, list(tools)) if tools else (None,):
                with suppress(Exception):  # templates raise what they like for what they do not take
                    yield tokenizer.apply_chat_template(
                        messages, tools=offered, tokenize=False, add_generation_prompt=prompt
                    )


def _template_strings(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield every string literal in the chat templates, also in branches that no sample reaches."""
    template = getattr(tokenizer, "chat_template", None) or {}
    environment = jinja2.Environment(  # noqa: S701 - parsed, never rendered
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    for source in template.values() if isinstance(template, dict) else [template]:
        with suppress(jinja2.TemplateSyntaxError, RecursionError):
            parsed = environment.parse(_GENERATION.sub("", source))
            yield from (each.data for each in parsed.find_all(nodes.TemplateData))
            yield from (each.value for each in parsed.find_all(nodes.Const) if isinstance(each.value, str))
