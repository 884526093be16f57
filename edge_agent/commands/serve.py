"""``lamina-agent serve``: answer other programs with the deployed model, by HTTP on this machine, and by MQTT."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
from pathlib import Path

import msgspec

from lamina.broker.link.address import BrokerAddress, host_and_port
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.programs.ending import run_until_signalled
from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.programs.logs import start_logging
from lamina.edge_agent.serving.http import HOST, PORT, served
from lamina.edge_agent.serving.loading import load
from lamina.edge_agent.serving.mqtt import answer_all
from lamina.edge_agent.serving.predictor import Predictor
from lamina.models.errors import require


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="lamina-agent serve",
        description="Answer programs of this board with the deployed model: POST /predict by HTTP, and by MQTT where "
        "topics are named. When another model is deployed, it answers from then on; no question is lost.",
        epilog="then: curl --data-binary @photo.png http://127.0.0.1:8766/predict; "
        "example: lamina-agent serve --config pi-3/agent.toml --port 8766",
    )
    parser.add_argument("--config", type=Path, help="the board's (agent.toml, here, or /etc/lamina/agent.toml)")
    parser.add_argument("--port", type=int, default=PORT, help=f"of HTTP, on this machine alone ({PORT})")
    parser.add_argument("--subscribe", metavar="TOPIC", help="answer questions on this topic, too")
    parser.add_argument("--publish", metavar="TOPIC", help="answers go there")
    parser.add_argument(
        "--at", default="localhost", metavar="HOST[:PORT]", help="the broker of these topics (localhost)"
    )
    options = parser.parse_args(arguments)
    require(bool(options.subscribe) == bool(options.publish), "name both --subscribe and --publish, or neither")
    start_logging(verbose=False)
    predictor = load(options.config)
    with served(predictor, options.port) as port:
        offer = predictor.model.offer
        print(
            f"http://{HOST}:{port}/predict answers with deployment {offer.number}, of round {offer.round}", flush=True
        )
        ended = run_until_signalled(_until_ended(predictor, options))
    return ExitStatus.INTERRUPTED if ended is signal.SIGINT else ExitStatus.DONE


async def _until_ended(predictor: Predictor, options: argparse.Namespace) -> None:
    if not options.subscribe:
        await asyncio.Event().wait()
    dial = mqtt_dial(msgspec.convert(host_and_port(options.at), BrokerAddress))
    name = f"lamina-serve-{secrets.token_hex(4)}"
    await answer_all(predictor, dial, name, options.subscribe, options.publish)
