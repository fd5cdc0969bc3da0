"""The report: its figures are those of the artifacts, nothing in it is markup but its own, and a browser shows it well."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from langprune_cli.stages.apply.model_writing import read_pruned
from langprune_cli.stages.combine.compare import linear_kind
from langprune_cli.stages.evaluate.earlier import read_rows
from langprune_cli.store.artifact import Artifact, open_artifact
from tests.support import reporting
from tests.support.command import DRAW, SEQLEN, did
from tests.support.reporting import EVALUATION, NAMESPACES, PRUNED, escaped, page, parsed, replace_part, table

reported = reporting.reported  # a fixture
Open = Callable[[str, str], Artifact]


def test_the_newest_evaluation_and_what_stands_behind_it(reported: Path) -> None:
    done = did("report", "-w", reported, "--json")
    assert f"Using evaluation {EVALUATION}." in done.err
    assert done.json["path"] == str(Path("report.html").absolute())
    assert done.json["artifacts"] == [
        "stats/uk", "masks/uk-wanda-2x4", f"models/{PRUNED}", "stats/en", "masks/en-wanda-2x4", f"evals/{EVALUATION}"
    ]  # fmt: skip
    assert f"Shows {', '.join(done.json['artifacts'][:-1])}." in done.err


def test_figures_of_the_evaluation(reported: Path, opened: Open) -> None:
    rows = read_rows(opened("evals", EVALUATION))
    found = table(page(reported), f"Perplexity and bits per byte: {EVALUATION}")
    assert found[0] == ["model", "pruned", "uk: ppl", "uk: change", "uk: bpb", "en: ppl", "en: change", "en: bpb"]
    assert [line[0] for line in found[1:]] == ["pico", PRUNED, "en-wanda-2x4"]
    for text, of_text in enumerate((rows[:3], rows[3:])):
        for line, row in zip(found[1:], of_text, strict=True):
            ppl, change, bpb = line[2 + 3 * text : 5 + 3 * text]
            assert (ppl, bpb) == (f"{row['ppl']:.3f}", f"{row['bpb']:.4f}")
            if row is of_text[0]:
                assert change == ""
            else:
                assert change.endswith(" *") is (row is min(of_text[1:], key=lambda each: each["ppl"]))
                assert float(change.partition("%")[0]) == pytest.approx(
                    100 * (row["ppl"] / of_text[0]["ppl"] - 1), abs=0.051
                )


def test_the_heat_map_shows_the_same(reported: Path, opened: Open) -> None:
    root = page(reported)
    figure = root.find(".//h:section[@id='languages']//s:svg", NAMESPACES)
    assert figure is not None
    shown = [each.text for each in figure.iterfind(".//s:text", NAMESPACES)]
    rows = read_rows(opened("evals", EVALUATION))
    figures = [each for each in shown if each and re.fullmatch(r"\d+\.\d{3}( [*=])?", each)]
    assert sorted(each.rstrip(" *=") for each in figures) == sorted(f"{row['ppl']:.3f}" for row in rows)
    best = [min(rows[first : first + 2], key=lambda row: row["ppl"]) for first in (1, 4)]
    starred = [each for each in figures if each.endswith("*")]
    assert sorted(starred) == sorted(f"{row['ppl']:.3f} *" for row in best)
    named = {each.get("id"): "".join(each.itertext()) for each in figure if each.tag.endswith(("title", "desc"))}
    assert figure.get("role") == "img"
    assert all(named[each] for each in str(figure.get("aria-labelledby")).split())


def test_intervals_and_noise(reported: Path) -> None:
    """Of rows that say what of a change is noise."""
    folder = reported / "evals" / EVALUATION
    rows = read_rows(open_artifact(folder, "evals"))
    rows[1] |= {"change_nats": 0.1, "change_low": 0.05, "change_high": 0.15, "significant": True}
    rows[2] |= {"change_nats": 0.1, "change_low": -0.05, "change_high": 0.25, "significant": False}
    rows[4] |= {"change_nats": 800.0, "change_low": 790.0, "change_high": 810.0, "significant": True}
    rows[5] |= {"change_nats": None, "change_low": None, "change_high": None, "significant": None}
    replace_part(folder, "result.json", json.dumps({"rows": rows}))
    root = page(reported)
    lines = [
        [cell.removesuffix(" *") for cell in line]
        for line in table(root, f"Perplexity and bits per byte: {EVALUATION}")
    ]
    assert lines[2][3].endswith("(5.1 to 16.2)")
    assert lines[3][3].endswith("(-4.9 to 28.4), noise")
    assert not lines[2][6].endswith(")")
    assert not lines[3][6].endswith(")")
    assert len(root.findall(".//s:rect[@class='hatch']", NAMESPACES)) == 1


def test_errors_and_sparsity_of_the_blocks(reported: Path, opened: Open) -> None:
    pruned = read_pruned(opened("models", PRUNED))
    found = table(page(reported), f"Blocks of {PRUNED}")
    heads = found[0][2:]
    assert len(found) == 1 + 3
    seen = 0
    for line in found[1:]:
        for head, cell in zip(heads, line[2:], strict=True):
            kind, _, what = head.partition(": ")
            one = next(each for each in pruned if each.block == int(line[0]) and linear_kind(each.linear) == kind)
            assert cell == f"{one.sparsity if what == 'sparsity' else one.error:.2%}"
            seen += 1
    assert seen == 2 * len(pruned)


def test_what_is_common_to_masks_and_statistics(reported: Path) -> None:
    root = page(reported)
    for kind, names in (("masks", ("uk-wanda-2x4", "en-wanda-2x4")), ("stats", ("uk", "en"))):
        pair = did("compare", "-w", reported, "--kind", kind, *names, "--json").json["pairs"][0]
        drawn = "removed_overlap" if kind == "masks" else "log_ratio"
        written = "{:.2%}" if kind == "masks" else "{:.4f}"
        assert table(root, f"Common to {kind}")[1][:2] == [" and ".join(names), written.format(pair["whole"][drawn])]
        title = "removed by both / either" if kind == "masks" else "mean |log ratio|"
        head, *lines = table(root, f"{title}: {' and '.join(names)}")
        for cell in pair["cells"]:
            assert lines[cell["block"]][head.index(cell["linear"])] == written.format(cell[drawn])


def test_what_was_named_is_shown(reported: Path) -> None:
    did("score", "-w", reported, "--stats", "en")
    done = did("report", "-w", reported, "--eval", "uk-wanda-2x4-uk-en", "--model", PRUNED, "--compare", "uk-wanda", "en-wanda",
               "--title", "Mine", "--json")  # fmt: skip
    assert {"scores/uk-wanda", "scores/en-wanda", "evals/uk-wanda-2x4-uk-en"} <= set(done.json["artifacts"])
    root = parsed(Path("report.html").read_text(encoding="utf-8"))
    assert root.findtext(".//h:h1", namespaces=NAMESPACES) == "Mine"
    assert len(table(root, "Common to scores")) == 2


def test_smaller_models_and_vocabularies(workspace: Path, pico_text: Path) -> None:
    data = ["--lang", "uk", "--data", pico_text / "uk.jsonl"]
    did("prune", "-w", workspace, *data, *DRAW, "--pattern", "channels:0.25", "--round-to", "2", "--name", "narrow")
    done = did(
        "eval", "-w", workspace, "--model", "narrow", *data, "--seqlen", SEQLEN, "--max-windows", "3", "--json"
    ).json
    size = done["sizes"][0]
    row = table(page(workspace), "Smaller models")[1]
    assert row == [
        "pico", "narrow", f"{size['parameters_before']:,}", f"{size['pruning_rate']:.4%}", f"{size['parameters_after']:,}",
        "uk", f"{size['ppl_before']:.4f}", f"{size['ppl_after']:.4f}",
    ]  # fmt: skip


def test_steps_of_a_chain_are_all_shown(workspace: Path, pico_model: Path, pico_text: Path) -> None:
    data = ["--lang", "uk", "--data", pico_text / "uk.jsonl"]
    patterns = ["--pattern", "vocab", "--pattern", "channels:0.25", "--pattern", "2:4"]
    did("prune", "-w", workspace, "--model", pico_model, *data, *DRAW, *patterns, "--round-to", "2", "--name", "chain")
    did("eval", "-w", workspace, "--model", "chain", *data, "--seqlen", SEQLEN, "--max-windows", "3")
    root = page(workspace)
    mask = next(
        each for each in did("ls", "masks", "-w", workspace, "--json").json["artifacts"] if "vocab" in each["name"]
    )
    kept = json.loads((Path(mask["path"]) / "manifest.json").read_bytes())["about"]["vocabulary"]
    language = kept["languages"][0]
    assert table(root, "Vocabularies")[1] == [
        mask["name"], f"{kept['rows_before']:,}", f"{kept['rows_after']:,}", f"{kept['required']:,}", "uk",
        f"{language['tokens']:,}", f"{language['covered']:.4%}", f"{language['seen']:,}", f"{language['lost']:,}",
    ]  # fmt: skip
    names = [line[0] for line in table(root, "Artifacts")[1:]]
    models = [name for name in names if name.startswith("models/")]
    assert len(models) == 3
    assert models[-1] == "models/chain"


def test_the_commands_make_the_same_artifacts(reported: Path, pico_model: Path, pico_text: Path) -> None:
    """Run where the files lie, in an empty workspace, they give every key again."""
    root = page(reported)
    lines = ["".join(each.itertext()) for each in root.iterfind(".//h:pre/h:code", NAMESPACES)]
    shutil.copytree(pico_model, "FOLDER/pico")
    for each in pico_text.iterdir():
        shutil.copyfile(each, f"FOLDER/{each.name}")
    keys = {}
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "langprune"
        done = did(*words, "-w", "again", "--json").json
        keys[f"{done['kind']}/{done['name']}"] = done["key"]
    assert keys == {name: key for name, key, *_ in table(root, "Artifacts")[1:]}


def test_tuning_is_said(workspace: Path, pico_text: Path) -> None:
    """Of one pattern it is an option of its command; of several it is a note, since no single steps make the same."""
    data = ["--lang", "uk", "--data", pico_text / "uk.jsonl"]
    for name, patterns in (("one", ["2:4"]), ("several", ["channels:0.25", "2:4"])):
        asked = [word for each in patterns for word in ("--pattern", each)] + (
            ["--round-to", "2"] if name == "several" else []
        )
        did("prune", "-w", workspace, *data, *DRAW, *asked, "--tune", "--epochs", "1", "--name", name)
        did("eval", "-w", workspace, "--model", name, *data, "--seqlen", SEQLEN, "--max-windows", "2")
        lines = ["".join(each.itertext()) for each in page(workspace).iterfind(".//h:pre/h:code", NAMESPACES)]
        own = next(line for line in lines if line.endswith(f"--name {name}") or line.startswith(f"# {name}:"))
        assert (
            ("--tune --epochs 1" in own and own.startswith("langprune prune"))
            if name == "one"
            else own.startswith("# several:")
        )


def test_prune_is_one_command(workspace: Path, pico_model: Path, pico_text: Path) -> None:
    mixed = [f"--lang={tag}:3" for tag in ("uk", "en")] + [f"--data={pico_text / tag}.jsonl" for tag in ("uk", "en")]
    did(
        "prune",
        "-w",
        workspace,
        "--model",
        pico_model,
        *mixed,
        "--seqlen",
        SEQLEN,
        "--seed",
        "3",
        "--pattern",
        "2:4",
        "--name",
        "at-once",
    )
    did(
        "eval",
        "-w",
        workspace,
        "--model",
        "at-once",
        "--data",
        pico_text / "uk.jsonl",
        "--seqlen",
        SEQLEN,
        "--max-windows",
        "2",
    )
    root = page(workspace)
    pruning, evaluation = ("".join(each.itertext()) for each in root.iterfind(".//h:pre/h:code", NAMESPACES))
    shutil.copytree(pico_model, "FOLDER/pico")
    for each in pico_text.iterdir():
        shutil.copyfile(each, f"FOLDER/{each.name}")
    done = did(*shlex.split(pruning)[1:], "-w", "again", "--json").json
    keys = {(each["kind"], each["key"]) for each in done["artifacts"]}
    keys.add(("evals", did(*shlex.split(evaluation)[1:], "-w", "again", "--json").json["key"]))
    assert keys == {(name.partition("/")[0], key) for name, key, *_ in table(root, "Artifacts")[1:]}


HOSTILE = '<script>alert(1)</script>" onload="x" \'&amp; \x1b[31mred\x1b[0m \u202eevil\u2066 |`*'


def test_hostile_names_are_text(reported: Path) -> None:
    folder = reported / "evals" / EVALUATION
    rows = read_rows(open_artifact(folder, "evals"))
    for row in rows:
        row |= {"model": HOSTILE, "text": row["text"] + HOSTILE, "source": f"/home/me/{HOSTILE}.jsonl"}
        row["mask"] = HOSTILE if row["mask"] else None
    replace_part(folder, "result.json", json.dumps({"rows": rows}))
    root = page(reported, "--title", HOSTILE)
    text = Path("report.html").read_text(encoding="utf-8")
    assert (
        root.findtext(".//h:h1", namespaces=NAMESPACES) == '<script>alert(1)</script>" onload="x" \'&amp; red evil |`*'
    )
    assert not root.findall(".//h:script", NAMESPACES)
    assert not [each for each in root.iter() if {"onload", "onclick"} & set(each.keys())]
    assert "/home/me" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", unescape(text))
    did("report", "-w", reported, "--format", "md", "--title", HOSTILE)
    document = Path("report.md").read_text(encoding="utf-8")
    assert document.splitlines()[0].startswith(r"# \<script\>alert(1)\</script\>")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", document)
    for block in re.findall(r"(?:^\|.*\n)+", document, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_the_page_loads_nothing(reported: Path) -> None:
    root = page(reported)
    text = Path("report.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>\n")
    tags = {each.tag.rpartition("}")[2] for each in root.iter()}
    assert not tags & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "audio",
        "video",
        "base",
        "form",
        "use",
        "image",
    }
    links = [value for each in root.iter() for name, value in each.items() if name in {"href", "src"}]
    assert links
    assert all(link.startswith("#") for link in links)
    style = "".join(each.text or "" for each in root.iterfind(".//h:style", NAMESPACES))
    assert "--page:" in style
    assert "max-width" in style
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"https?://", re.sub(r'xmlns="[^"]*"', "", text))
    names = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(names) == len(set(names))
    assert {link[1:] for link in links} <= set(names)


def test_markdown_has_the_same_tables(reported: Path) -> None:
    root = page(reported)
    did("report", "-w", reported, "--format", "md")
    document = Path("report.md").read_text(encoding="utf-8")
    for title in (
        f"Perplexity and bits per byte: {EVALUATION}",
        "Common to masks",
        "Artifacts",
        f"Linears of {PRUNED}",
    ):
        after = document.partition(f"**{escaped(title)}**\n\n")[2].partition("\n\n")[0]
        lines = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in after.splitlines()]
        assert set(lines.pop(1)) == {"---"}
        assert lines == [[escaped(cell) for cell in line] for line in table(root, title)]
