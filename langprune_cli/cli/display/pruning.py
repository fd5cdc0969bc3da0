"""Tables of what a mask of tokens keeps, and of what training had brought back."""

from langprune_cli.cli.display.console import print_line
from langprune_cli.cli.display.tables import print_table
from langprune_cli.records import ReturnedRecord, VocabularyRecord


def print_vocabulary(record: VocabularyRecord) -> None:
    """Print how many tokens stay, and language by language what they cover and what is lost."""
    before, after = record["rows_before"], record["rows_after"]
    print_line(
        f"{after:,} of {before:,} rows stay ({1 - after / before:.2%} leave), {record['required']:,} of them whatever the text."
    )
    if record.get("chat"):
        print_line(f"{record['chat']:,} stay only for chats, Markdown and code (--no-keep-chat lets them go).")
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
    """Print how many of the masked weights had become other than zero, block by block and in all."""
    rows = [[str(each["block"]), *_figures(each)] for each in found["blocks"]]
    print_line("Weights that training had brought back, and that are zero again:")
    print_table(["block", "masked", "came back", "share"], [*rows, ["all", *_figures(found)]])


def _figures(counts: ReturnedRecord) -> list[str]:
    share = counts["returned"] / counts["masked"] if counts["masked"] else 0.0
    return [f"{counts['masked']:,}", f"{counts['returned']:,}", f"{share:.2%}"]
