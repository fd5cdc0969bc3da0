"""A stand-in for the command line where a test calls a stage by itself."""


class Quiet:
    """A reporter that shows nothing."""

    def note(self, text: str) -> None:
        pass

    def begin(self, what: str, blocks: int, tokens: int) -> None:
        pass

    def tick(self, block: int, tokens: int) -> None:
        pass

    def end(self) -> None:
        pass
