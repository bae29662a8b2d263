"""What the documents name exists: links, commands and options, modules, targets, files, the program in the README."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from benchmarks import reliability_table
from node.cli.catalogue import ROOT as COMMANDS
from node.cli.parser import Parser
from node.demo.main import _parser as demo_parser
from simulations.cli import _parser as simulations_parser
from tests.protocol.instances import registered

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ("reference-cli.md", "reference-config.md", "reference-scenarios.md")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
WRITTEN = [page for page in PAGES if page.name not in GENERATED]
TREES = "protocol|dht|pubsub|fl|nat|crdt|node|simulations|tests|docs|deploy|examples|benchmarks"
UNIT = ROOT / "deploy" / "mycelia.service"


def none(found: Iterable[str]) -> None:
    """Fail with one line per finding."""
    lines = list(found)
    assert not lines, "\n" + "\n".join(lines)


def code(page: Path) -> Iterator[str]:
    """Lines of code blocks, indented or fenced, and code spans, which may be wrapped."""
    text = page.read_text()
    prose = []
    for position, part in enumerate(re.split(r"^```.*$", text, flags=re.MULTILINE)):
        lines = part.splitlines()
        if position % 2:
            yield from lines
        else:
            yield from (line.strip() for line in lines if line.startswith("    "))
            prose.append("\n".join(line for line in lines if not line.startswith("    ")))
    for span in re.findall(r"`([^`]+)`", "\n\n".join(prose)):
        yield " ".join(span.split())


def snippets(pattern: str) -> Iterator[tuple[str, str]]:
    """(page, what ``pattern`` captures) in the code of all pages that people write."""
    for page in WRITTEN:
        for line in code(page):
            for found in re.findall(pattern, line):
                yield page.name, found


def options(words: Iterable[str]) -> list[str]:
    return [word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]


# ---- the program -----------------------------------------------------------------------------------------------------


def test_the_readme_shows_the_first_example_as_it_is() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert (ROOT / "examples" / "digits.py").read_text() in blocks


# ---- links -----------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> list[str]:
    """How its headings are linked to."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(), flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def broken(page: Path) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.is_file():
            yield f"{page.name}: {link} leads nowhere"
        elif anchor and anchor not in anchors(target):
            yield f"{page.name}: {link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_resolves(page: Path) -> None:
    none(broken(page))


# ---- commands --------------------------------------------------------------------------------------------------------


def flaw(line: str) -> str:
    """What is wrong with ``mycelia LINE``; empty when nothing is."""
    words = re.sub(r"\s+#.*| \|.*|[;)].*", "", line).split()
    while words and words[0] in ("mycelia", "-C", "--state", "--config"):
        words = words[1:] if words[0] == "mycelia" else words[2:]
    command, path = COMMANDS, "mycelia"
    while words and command.children and not words[0].startswith("-"):
        child = next((child for child in command.children if child.name == words[0]), None)
        if child is None:
            return "" if words[0].isupper() else f"{path} has no command {words[0]}"
        command, path, words = child, f"{path} {child.name}", words[1:]
    known = Parser(command, path).arguments if not command.passthrough else demo_parser()._actions
    strings = [string for action in known for string in action.option_strings]
    unknown = [option for option in options(words) if option not in strings]
    return f"{path} has no option {unknown[0]}" if unknown else ""


def test_every_command_exists() -> None:
    mentioned = list(snippets(r"(?:^|[\s(/])mycelia ([a-zA-Z-].*)"))
    assert len(mentioned) > 50
    none(f"{page}: mycelia {line}: {wrong}" for page, line in mentioned if (wrong := flaw(line)))


@pytest.mark.parametrize("line", ["fly", "invite --days 3", "-C a models list", "demo --speed 3"])
def test_what_does_not_exist_is_found(line: str) -> None:
    assert flaw(line)


def test_the_service_starts_a_command_that_exists() -> None:
    (line,) = re.findall(r"^ExecStart=\S+/mycelia (.+)$", UNIT.read_text(), flags=re.MULTILINE)
    assert not flaw(line)


def test_every_target_exists() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    none(f"{page}: make {name}" for page, name in snippets(r"(?:^|\s)make ([a-z]+)") if name not in targets)


# ---- modules and files -----------------------------------------------------------------------------------------------


def module_flaw(name: str, rest: str) -> str:
    """What is wrong with ``python -m NAME REST``; empty when nothing is, or when it is not ours."""
    if name.partition(".")[0] not in TREES.split("|"):
        return ""
    found = importlib.util.find_spec(name)
    if found is None:
        return f"there is no module {name}"
    if found.submodule_search_locations is not None:
        name = f"{name}.__main__"
    words = rest.partition("#")[0].split()
    if name == "simulations.__main__":
        (commands,) = (a for a in simulations_parser()._actions if isinstance(a, argparse._SubParsersAction))
        parser = commands.choices.get(words[0]) if words else None
        if words and parser is None:
            return f"python -m simulations has no command {words[0]}"
        known = [string for action in (parser._actions if parser else ()) for string in action.option_strings]
    elif name.startswith("benchmarks."):
        known = [*re.findall(r'"(--[\w-]+)"', (ROOT / f"{name.replace('.', '/')}.py").read_text()), "--json"]
    else:
        return ""
    unknown = [option for option in options(words) if option not in known]
    return f"python -m {name} has no option {unknown[0]}" if unknown else ""


def test_every_module_that_is_run_exists() -> None:
    found = [
        (page, *call)
        for page in WRITTEN
        for line in code(page)
        for call in re.findall(r"python3? -m ([\w.]+)(.*)", line)
    ]
    assert len(found) > 10
    none(f"{page.name}: {wrong}" for page, name, rest in found if (wrong := module_flaw(name, rest)))


def test_every_file_that_is_named_exists() -> None:
    named = snippets(rf"(?<![\w./])((?:{TREES})/[\w./-]*\w)")
    none(f"{page}: {name}" for page, name in named if not (ROOT / name).exists() and "NAME" not in name)


def test_the_protocol_page_lists_every_message() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text()
    listed = re.findall(r"^\| (\d+) \| `(\w+)` \| (\d+) \|", text, flags=re.MULTILINE)
    assert listed == [(str(cls.KIND), cls.__name__, str(cls.LIMIT)) for cls in registered()]


# ---- the tables of reliability.md ------------------------------------------------------------------------------------

APP = {"app": "a", "status": "finished", "rounds": 6, "epoch": 1, "contributors": 3}
RUN = {
    "scenario": "toy", "seed": 7, "digest": "d" * 32, "nodes": 8, "events": 100, "faults": {"crash": 2}, "apps": [APP],
    "violations": [], "violations_total": 0,
}  # fmt: skip
RESULTS = [
    RUN,
    {"seeds": 2, "failed": 0, "bound": 1.5, "events": 200, "runs": [RUN, RUN]},
    {"mutants": [{"name": "no-fence", "caught": True, "seeds": 4, "rule": "one-head"}], "survivors": [],
     "false_alarms": []},
    {"cases": [{"case": "crash", "seeds": 20, "rounds": 219, "wanted": 220, "share_worst": 0.5,
                "aims": {"all": True, "worst": False}}],
     "met": False, "runs": []},
    {"nodes": 16, "rounds": 20, "alpha": 0.3, "seed": 0, "killed": [], "rounds_lost": 0, "double_counted": 0,
     "replay_max_abs_diff": 2e-6},
    {"benchmark": "churn", "facts": {"nodes": 16}, "aims": [{"name": "rounds lost", "value": 1, "met": False}]},
]  # fmt: skip


def test_each_kind_of_result_has_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{number}.json" for number in range(len(RESULTS))]
    for file, result in zip(files, RESULTS, strict=True):
        file.write_text(json.dumps(result))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{reliability_table.BEGIN}\nold\n{reliability_table.END}\nafter\n")
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["reliability_table", *map(str, files), "--write", str(page)])
        reliability_table.main()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| `no-fence` | one-head | 4 |" in text
    assert "219 of 220 rounds" in text
    assert "took 4 seeds; 0 false alarms" in text
    assert "--alpha 0.3 --seed 0 --no-kill` | 16 daemons: nothing |" in text
    assert "0 of 1 aims met; missed: rounds lost" in text
    assert text.count("\n| ") == len(RESULTS) + 3


def test_the_page_has_tables_that_can_be_replaced() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    assert text.count(reliability_table.BEGIN) == text.count(reliability_table.END) == 1


# ---- the threat model -----------------------------------------------------------------------------------------------


def test_every_promise_of_the_threat_model_names_code_and_a_check_that_exist() -> None:
    """A row is | promise | `file.py` … | `tests/file.py::test`, or a command of benchmarks or simulations |."""

    def flaws() -> Iterator[str]:
        for line in (ROOT / "docs" / "threat-model.md").read_text().splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not line.startswith("|") or len(cells) != 3 or cells[0] in ("promise", "---"):
                continue
            promise, kept, shown = cells
            for named in re.findall(r"`([\w/]+\.\w+)`", kept):
                if not (ROOT / named).is_file():
                    yield f"{promise}: no file {named}"
            checks = re.findall(r"`([^`]+)`", shown)
            if not re.search(r"`[\w/]+\.\w+`", kept) or not checks:
                yield f"{promise}: names no code, or no check"
            for check in checks:
                file, _, test = check.partition("::")
                if test and not ((ROOT / file).is_file() and f"def {test}(" in (ROOT / file).read_text()):
                    yield f"{promise}: no test {check}"
                if not test and not check.startswith(("python -m benchmarks.", "python -m simulations ")):
                    yield f"{promise}: {check} is neither a test nor a command that checks"

    none(flaws())


def test_decisions_are_numbered_in_their_order() -> None:
    numbers = re.findall(r"^## (\d+)\. ", (ROOT / "docs" / "decisions.md").read_text(), re.MULTILINE)
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
