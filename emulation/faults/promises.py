"""What must be true of a federation that was disturbed, whatever befell it.

Always: it finishes; no program crashes, and nobody waits for ever; ``rounds.csv`` has every round once and in order; no
round waits for its deadline; and no round is without an update, unless every device may have been lost.

Where no device was lost, every update that was planned was folded, and the final model has the bits of the undisturbed
run. A power cut may cost a device its drift within a cycle: that changes bits, and nothing else.
"""

from __future__ import annotations

from lamina.emulation.faults.federation import Ending
from lamina.emulation.faults.scenario import ROUND_S, Event, Scenario, loses_drift, may_lose


def broken_promises(scenario: Scenario, events: tuple[Event, ...], undisturbed: Ending, ending: Ending) -> list[str]:
    """Every promise that does not hold, in words; empty when all is well."""
    broken = list(ending.problems)
    rounds = [row["round"] for row in ending.rows]
    if rounds != [row["round"] for row in undisturbed.rows]:
        broken.append(f"rounds.csv has the rounds {' '.join(rounds)}")
    lost = may_lose(scenario, events)
    for row in ending.rows:
        if float(row["round_s"]) >= ROUND_S:
            broken.append(f"round {row['round']} waited for its deadline")
        if int(row["updates"]) == 0 < int(row["expected"]) and len(lost) < len(scenario.devices):
            broken.append(f"round {row['round']} has no update")
        if not lost and row["updates"] != row["expected"]:
            broken.append(f"round {row['round']} has {row['updates']} of {row['expected']} updates")
    if not ending.model:
        broken.append("there is no model")
    elif not lost and not loses_drift(scenario, events) and ending.model != undisturbed.model:
        broken.append("the model has other bits than the undisturbed run's")
    return broken
