"""The glossary of ARCHITECTURE.md names classes that exist, and no two classes of the product share a name."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "broker", "coordinator", "edge_agent", "emulation")
ROW = re.compile(r"^\| (?P<word>[^|]+) \| `(?P<name>[\w.]+)` \| (?P<meaning>[^|]+) \|$")


def classes() -> dict[str, list[str]]:
    """The modules that define a class of each name, at any depth."""
    found: dict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    found[node.name].append(module)
    return found


def glossary() -> dict[str, str]:
    """The class that bears each word of the table that begins with a row of headings."""
    lines = (ROOT / "ARCHITECTURE.md").read_text().splitlines()
    first = lines.index("| word | class | meaning |") + 2
    table: dict[str, str] = {}
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        row = ROW.match(line)
        assert row is not None, f"not a word, its class and its meaning: {line}"
        assert row["word"] not in table, f"{row['word']} stands twice"
        table[row["word"]] = row["name"]
    return table


def test_no_two_classes_share_a_name() -> None:
    assert {name: modules for name, modules in classes().items() if len(modules) > 1} == {}


def test_every_word_has_a_class_of_its_own() -> None:
    known, words = classes(), glossary()
    assert len(words) >= 20
    assert len(set(words.values())) == len(words)
    for word, dotted in words.items():
        module, _, name = dotted.rpartition(".")
        assert known.get(name) == [module], f"{word}: {dotted} is defined in {known.get(name, 'no module')}"


def test_the_arrays_that_modules_share_are_named_once() -> None:
    named = {
        target.id: "models/arrays.py"
        for node in ast.parse((ROOT / "models/arrays.py").read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    name, place = node.targets[0].id, str(path.relative_to(ROOT))
                    assert named.get(name, place) == place, f"{place} names {name} again: import it"
