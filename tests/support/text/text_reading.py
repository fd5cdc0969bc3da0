"""What tests of sources share: reading all of one, and the sentence that a failure is."""

import pytest

from langprune_cli.errors import LangpruneError
from langprune_cli.text.sources import read_documents

TEXTS = ["Перший документ.", "The second\none, of two lines.", "третій"]


def read(source: object) -> list[str]:
    return list(read_documents(str(source)))


def one_sentence(error: LangpruneError) -> str:
    """Return the message of `error`, having checked that it is one line that a person can act on."""
    message = str(error)
    assert "\n" not in message
    assert "Traceback" not in message
    assert len(message) < 500
    return message


def failure(source: object) -> str:
    with pytest.raises(LangpruneError) as caught:
        read(source)
    assert caught.value.exit_code == 1
    return one_sentence(caught.value)
