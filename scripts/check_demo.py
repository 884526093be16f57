"""Checks that the main job ended as it should: `python scripts/check_demo.py runs/demo/summary.json mosquitto`."""

import json
import sys
from pathlib import Path


def main() -> int:
    """Print each fact and whether it holds; exit status 1 if one does not."""
    path, broker = sys.argv[1:]
    summary = json.loads(Path(path).read_text())
    trained = {device["tier"] for device in summary["devices"] if device["rounds_done"] > 0}
    facts = {
        f"broker is {broker}": summary["broker"] == broker,
        f"accuracy {summary['accuracy']:.4f} is at least 0.93": summary["accuracy"] >= 0.93,
        f"C ratio {summary['c_ratio']:.3f} is below 0.85": summary["c_ratio"] < 0.85,
        f"tiers that trained: {', '.join(sorted(trained))}": {"strong", "moderate", "weak"} <= trained,
        f"{summary['uplink_bytes']:,} bytes went up": 0 < summary["uplink_bytes"] < summary["fedavg_uplink_bytes"],
    }
    for fact, holds in facts.items():
        print(f"{'ok' if holds else 'NO'}  {fact}")
    return 0 if all(facts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
