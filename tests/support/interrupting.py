"""A reporter that ends a run, as Ctrl-C would."""


class Interrupting:
    """A reporter that ends the run at the tick of a given number, counted from 1."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.ticks, self.tokens = at, 0, 0
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def begin(self, _what: str, _blocks: int, tokens: int) -> None:
        self.tokens = tokens

    def tick(self, _block: int, tokens: int) -> None:
        self.tokens -= tokens
        self.ticks += 1
        if self.ticks == self.at:
            raise KeyboardInterrupt

    def end(self) -> None:
        pass
