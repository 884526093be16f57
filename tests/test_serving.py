"""The deployed model answers: to the library call, to commands, by HTTP and by MQTT, while models change."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
import threading
import wave
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

import lamina.edge
from lamina.broker.link.memory import MemoryBroker
from lamina.edge_agent.cli import main
from lamina.edge_agent.serving import http as serving
from lamina.edge_agent.serving.mqtt import answer_all
from lamina.edge_agent.serving.questions import MOST_BYTES, replied
from lamina.edge_agent.serving.readings import predictions
from lamina.edge_agent.serving.shelf import Shelf
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import Definition
from lamina.models.errors import ConfigError, DataError
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec
from lamina.models.targets import TargetSpec
from tests.deployed import put, settings_file
from tests.patience import PATIENCE_S

NAMES = ("low", "middle", "high")


def bundle_of(folder: Path, module: nn.Module, shape: tuple[int, ...]) -> Bundle:
    definition = Definition("answers", module, shape, len(NAMES), class_names=NAMES)
    build_bundle(definition, folder, batch_size=4, measure=lambda *_: 5.0)
    return read_bundle(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two numbers to three classes, by the values that a test gives."""
    return bundle_of(tmp_path_factory.mktemp("bundle") / "b", nn.Sequential(nn.Linear(2, 3)), (2,))


@pytest.fixture(scope="module")
def picture_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("bundle") / "p", nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (3, 2, 2))


def says(label: int) -> dict[str, np.ndarray]:
    """Values by which the network says one class, whatever it is asked."""
    return {"0.weight": np.zeros((3, 2), np.float32), "0.bias": 5 * np.eye(3, dtype=np.float32)[label]}


@pytest.fixture
def board(tmp_path: Path, bundle: Bundle) -> Path:
    """A board whose model says ``middle``; its agent.toml."""
    config = settings_file(tmp_path / "pi", '{path = "log.csv", inputs = ["a", "b"], target = "state"}')
    put(config.parent, bundle, **says(1))
    return config


def test_three_lines_are_enough(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(board.parent)
    model = lamina.edge.load()
    assert model.predict([[0.0, 1.0], [2.0, 3.0]]) == 2 * [{"label": 1, "class": "middle", "score": 0.986703}]
    assert model.predict(np.zeros(2, np.float32))[0]["class"] == "middle"  # a single sample
    assert model.class_names == NAMES


def test_it_says_what_is_missing(board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no model is deployed"):
        lamina.edge.load(settings_file(tmp_path / "other"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAMINA_AGENT", raising=False)
    with pytest.raises(ConfigError, match=r"agent\.toml"):
        lamina.edge.load()
    model = lamina.edge.load(board)
    for wrong in (
        np.zeros((4, 3), np.float32),
        [["a", "b"]],
        [[1.0], [2.0, 3.0]],
        "nothing.csv",
        np.array([[np.nan, 0]]),
    ):
        with pytest.raises(DataError):
            model.predict(wrong)


@pytest.mark.parametrize("with_target", [True, False])
def test_a_table_is_read_as_the_boards_samples_are(board: Path, tmp_path: Path, *, with_target: bool) -> None:
    file = tmp_path / "new.csv"
    file.write_text("b,x,a,state\n1,9,2,low\n3,9,4,low\n" if with_target else "b,x,a\n1,9,2\n3,9,4\n")
    assert len(lamina.edge.load(board).predict(file)) == 2


def test_windows_of_a_series_need_nothing_that_follows_them(tmp_path: Path, picture_bundle: Bundle) -> None:
    bundle = bundle_of(tmp_path / "b", nn.Sequential(nn.Flatten(), nn.Linear(8, 3)), (4, 2))
    data = '{path = "load.csv", inputs = ["a", "b"], target = "a", window = 4, horizon = 2, group = "machine"}'
    config = settings_file(tmp_path / "pi", data)
    put(config.parent, bundle)
    file = tmp_path / "now.csv"
    file.write_text("a,b\n" + "".join(f"{row},{row}\n" for row in range(5)))
    assert len(lamina.edge.load(config).predict(file)) == 2


def test_arrays_and_images_and_folders_are_read(tmp_path: Path, picture_bundle: Bundle) -> None:
    config = settings_file(tmp_path / "pi", '{path = "photos", size = [2, 2]}')
    put(config.parent, picture_bundle)
    model = lamina.edge.load(config)
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2)
    np.save(tmp_path / "x.npy", pixels)
    np.savez(tmp_path / "x.npz", x=pixels, y=[0])
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels[0].transpose(1, 2, 0)).save(tmp_path / "photos" / "one.png")
    Image.fromarray(np.zeros((7, 5, 3), np.uint8)).save(tmp_path / "photos" / "two.png")
    expected = model.predict(pixels)
    assert model.predict(tmp_path / "x.npy") == model.predict(tmp_path / "x.npz") == expected
    assert model.predict(tmp_path / "photos" / "one.png") == expected
    assert len(model.predict(tmp_path / "photos")) == 2


def test_a_recording_is_read(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "b", nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), (1, 6))
    config = settings_file(tmp_path / "pi", '{path = "clips", window = 6, pad = true}')
    put(config.parent, bundle)
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(np.arange(10, dtype="<i2").tobytes())
    assert len(lamina.edge.load(config).predict(tmp_path / "a.wav")) == 2


def test_the_command_prints_what_the_model_says(
    board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 2), np.float32))
    assert main(["predict", str(tmp_path / "x.npy"), "--config", str(board)]) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"{tmp_path / 'x.npy'}[1]: middle (98.7 %)"
    assert main(["predict", str(tmp_path / "x.npy"), "--json", "--config", str(board)]) == 0
    assert json.loads(capsys.readouterr().out)["deployment"] == 1
    assert main(["predict", str(tmp_path / "none.npy"), "--config", str(board)]) == 2


def test_a_board_needs_neither_torch_nor_onnx_to_predict(board: Path) -> None:
    script = (
        "import sys, lamina.edge; lamina.edge.load(sys.argv[1]).predict([[0, 0]]);"
        "import lamina.edge_agent.commands.serve;"
        "print({name.split('.')[0] for name in sys.modules} & {'torch', 'onnx', 'scipy', 'matplotlib', 'aiohttp'})"
    )
    done = subprocess.run([sys.executable, "-c", script, str(board)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


# -- models change ---------------------------------------------------------------------------------------------------


def test_the_next_prediction_is_the_new_models(board: Path, bundle: Bundle) -> None:
    model = lamina.edge.load(board)
    put(board.parent, bundle, 2, **says(2))
    told = model.tell([[0, 0]])
    assert (told.deployment, told.round, told.predictions[0]["class"]) == (2, 20, "high")


def test_where_the_new_one_can_not_be_loaded_the_old_one_answers(board: Path, bundle: Bundle) -> None:
    model = lamina.edge.load(board)
    offer = put(board.parent, bundle, 2, **says(2))
    Shelf(board.parent / "state").path(offer).write_bytes(b"damaged")
    assert [model.tell([[0, 0]]).deployment for _ in range(2)] == [1, 1]
    put(board.parent, bundle, 3, **says(0))
    assert model.tell([[0, 0]]).deployment == 3


@pytest.fixture
def port(board: Path) -> Iterator[int]:
    with serving.served(lamina.edge.load(board), 0) as port:
        yield port


def asked(port: int, content: bytes | str, **headers: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("POST", "/predict", content, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_http_answers_json_arrays_and_tables(port: int, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 2), np.float32))
    status, said = asked(port, '{"x": [0, 1], "id": "q1"}')
    assert (status, said["id"], said["deployment"]) == (200, "q1", 1)
    assert said["predictions"] == [{"label": 1, "class": "middle", "score": 0.986703}]
    assert len(asked(port, (tmp_path / "x.npy").read_bytes())[1]["predictions"]) == 3
    assert len(asked(port, "a,b\n1,2\n")[1]["predictions"]) == 1


@pytest.mark.parametrize(
    "content",
    ['{"x": [1]}', '{"y": 1}', "{", '{"x": "a"}', "\0\1\2", "nothing", '{"x":' + 2000 * "[" + "}", b"\x93NUMPYjunk",
     b"\x89PNGjunk"],
)  # fmt: skip
def test_a_question_that_makes_no_sense_is_told_so(port: int, content: bytes | str) -> None:
    status, said = asked(port, content)
    assert (status, "predictions" in said) == (400, False)
    assert 0 < len(said["error"]) <= 500


def test_http_says_which_model_answers_and_refuses_others(port: int) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as connection:
        connection.request("GET", "/")
        assert json.loads(connection.getresponse().read())["classes"] == list(NAMES)
        connection.request("GET", "/other")
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (404, True)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(MOST_BYTES + 1))
        connection.endheaders()
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (413, True)
    assert asked(port, "{}", Host="evil.example")[0] == 403
    assert asked(port, "{}", Origin="http://evil.example")[0] == 403


def test_a_swap_while_serving_loses_no_request(port: int, board: Path, bundle: Bundle) -> None:
    said: list[tuple[int, int, str]] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            status, answer = asked(port, '{"x": [0, 1]}')
            said.append((status, answer.get("deployment", 0), str(answer)))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(2, 12):
        put(board.parent, bundle, number, **says(number % 3))
        before = len(said)
        while len(said) < before + 4:
            ended.wait(0.01)
    ended.set()
    for thread in threads:
        thread.join()
    assert [text for status, _, text in said if status != 200] == []
    assert {number for _, number, _ in said} >= {2, 11}


async def test_mqtt_answers_on_another_topic(board: Path) -> None:
    broker, model = MemoryBroker(), lamina.edge.load(board)
    serving_ = asyncio.create_task(answer_all(model, broker.dial, "serve", "asked/+", "answered"))
    async with asyncio.timeout(PATIENCE_S), broker.dial("sensor") as link:
        await link.subscribe("answered")
        while "serve" not in broker.clients:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        deliveries = link.deliveries()
        for number, question in enumerate((b'{"x": [0, 1], "id": 0}', b"junk", b'{"x": [0, 1], "id": 2}')):
            await link.publish(f"asked/{number}", question)
            answer = await anext(deliveries)
            answer.acknowledge()
            assert ("error" in json.loads(answer.payload)) == (number == 1)
    serving_.cancel()
    await asyncio.gather(serving_, return_exceptions=True)


def test_too_large_a_question_is_not_looked_at(board: Path) -> None:
    assert "at most" in replied(lamina.edge.load(board), bytes(MOST_BYTES + 1)).error


# -- what outputs mean -----------------------------------------------------------------------------------------------


def spec_of(target: TargetSpec, names: tuple[str, ...] | None = None) -> ModelSpec:
    layer = LayerSpec("l", (TensorSpec("w", (2, 2), "kernel"),))
    return ModelSpec(
        "m", (layer,), (BlockSpec("b", 0, 1, (2,)),), (0,), classes=target.classes, target=target, class_names=names
    )


X = np.zeros((1, 2), np.float32)


@pytest.mark.parametrize(
    ("target", "values", "expected"),
    [
        (TargetSpec("binary", classes=2), [[2.0]], {"label": 1, "class": "yes", "score": 0.880797}),
        (TargetSpec("binary", classes=2), [-2.0], {"label": 0, "class": "no", "score": 0.880797}),
        (TargetSpec("multi_label", "float32", (2,), largest=1.0), [[9.0, -9.0]], {"labels": [0], "classes": ["no"]}),
        (TargetSpec("regression", "float32", (2,)), [[1.5, 2.5]], {"values": [1.5, 2.5]}),
        (TargetSpec("reconstruction", "float32", (2,), is_input=True), [[1.0, 3.0]], {"error": 5.0}),
        (TargetSpec("dense", "int64", (2, 1), 3), [[[[0], [9]], [[9], [0]], [[0], [0]]]], {"labels": [[1], [0]]}),
        (TargetSpec("tokens", "int64", (2,), 3), [[[0, 9, 0], [9, 0, 0]]], {"labels": [1, 0]}),
        (TargetSpec("single_label", classes=2), [[1000.0, 0.0]], {"label": 0, "class": "no", "score": 1.0}),
    ],
)  # fmt: skip
def test_outputs_are_read_by_the_task(target: TargetSpec, values: list, expected: dict) -> None:
    spec = spec_of(target, ("no", "yes") if target.task in ("binary", "multi_label", "single_label") else None)
    [said] = predictions({"out": np.asarray(values, np.float32)}, X, spec)
    assert {name: said[name] for name in expected} == expected


def test_several_outputs_come_by_name() -> None:
    outputs = {"a": np.ones((1, 2), np.float32), "b": np.zeros((1,), np.float32)}
    [said] = predictions(outputs, X, spec_of(TargetSpec("own", "float32")))
    assert said == {"values": {"a": [1.0, 1.0], "b": 0.0}}
