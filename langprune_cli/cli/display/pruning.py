"""Tables of a mask of tokens, and of weights that training brought back."""

from langprune_cli.cli.display.console import print_line
from langprune_cli.cli.display.tables import print_table
from langprune_cli.records import ReturnedRecord, VocabularyRecord


def print_vocabulary(record: VocabularyRecord) -> None:
    """Print how many tokens stay, and the covered and lost text of each language."""
    before, after = record["rows_before"], record["rows_after"]
    print_line(
        f"{after:,} of {before:,} rows stay ({1 - after / before:.2%} removed), {record['required']:,} of them for any text."
    )
    if record.get("chat"):
        print_line(f"{record['chat']:,} stay only for chats, Markdown and code (--no-keep-chat removes them).")
    rows = [
        [
            each["language"],
            f"{each['tokens']:,}",
            f"{each['covered']:.4%}",
            f"{1 - each['covered']:.4%}",
            f"{each['seen']:,}",
            f"{each['lost']:,}",
        ]
        for each in record["languages"]
    ]
    print_table(["language", "tokens counted", "covered", "lost", "different tokens", "of these lost"], rows)


def print_returned(found: ReturnedRecord) -> None:
    """Print how many pruned weights training made nonzero, by block and in total."""
    rows = [[str(each["block"]), *_figures(each)] for each in found["blocks"]]
    print_line("Weights that training brought back, now zero again:")
    print_table(["block", "masked", "came back", "share"], [*rows, ["all", *_figures(found)]])


def _figures(counts: ReturnedRecord) -> list[str]:
    share = counts["returned"] / counts["masked"] if counts["masked"] else 0.0
    return [f"{counts['masked']:,}", f"{counts['returned']:,}", f"{share:.2%}"]
