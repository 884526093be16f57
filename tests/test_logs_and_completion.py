"""Logs as JSON where the environment asks for it, and what shells complete."""

import io
import json
import logging
import shutil
import subprocess

import pytest

from lamina.broker.programs import logs
from lamina.coordinator.commands.completion import script
from lamina.models.errors import ConfigError

FLAGS = {"run": ["--fresh", "--help"], "status": ["--help", "--json"]}


def logged(monkeypatch: pytest.MonkeyPatch, kind: str) -> str:
    """What a program writes, whose root logger is as it finds it at its start."""
    root, stream = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setenv(logs.VARIABLE, kind)
    logs.start_logging(verbose=False, stream=stream)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("lamina.agent").warning('pi-3: "late" by %d s', 5, exc_info=True)
    logging.getLogger("lamina.agent").debug("a detail")
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["json", "auto"])
def test_a_record_is_a_line_of_json_where_no_terminal_is(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    [line] = logged(monkeypatch, kind).splitlines()
    record = json.loads(line)
    assert (record["level"], record["logger"], record["message"]) == ("warning", "lamina.agent", 'pi-3: "late" by 5 s')
    assert record["time"].endswith("+00:00")
    assert "ValueError: why" in record["error"]


def test_a_person_reads_text(monkeypatch: pytest.MonkeyPatch) -> None:
    first = logged(monkeypatch, "text").splitlines()[0]
    assert first.endswith('lamina.agent: pi-3: "late" by 5 s')


def test_an_unknown_kind_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.VARIABLE, "xml")
    with pytest.raises(ConfigError, match="LAMINA_LOG must be one of text, json, auto, and is 'xml'"):
        logs.start_logging(verbose=False)


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["lamina", ""], ["run", "status"]), (["lamina", "st"], ["status"]), (["lamina", "run", "--f"], ["--fresh"])],
)
def test_bash_completes(words: list[str], expected: list[str]) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash isn't installed")
    asked = f"COMP_WORDS=({' '.join(word or repr('') for word in words)}); COMP_CWORD={len(words) - 1}; _lamina"
    program = f'{script("bash", FLAGS)}\n{asked}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
    ran = subprocess.run(["bash", "--norc", "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == expected


def test_zsh_is_told_to_understand_it() -> None:
    assert script("zsh", FLAGS).startswith("autoload")
    assert script("zsh", FLAGS).endswith(script("bash", FLAGS))
