"""The clients' devices: what decides their ranks, and the plan against what came."""

from __future__ import annotations

from collections.abc import Sequence

from flexlora.formats.words import count
from flexlora.report.blocks import Block, Note, Section, Table
from flexlora.report.runs import Class, ReportRun


def devices(runs: Sequence[ReportRun]) -> Section:
    found = [(run, name, x) for run in runs for name, x in run.devices.items() if x.clients]
    if not found:
        note = "Clients have types, and no devices: clients.devices names a file of them."
        return Section("devices", "Devices", (Note(note),))
    blocks: list[Block] = [
        *(Note(words) for run in runs if (words := _simulated(run))),
        Table.of(
            "Which rank for whom, and what decides it",
            ["run", "device", "clients", "rank", "decided by", "planned peak, MB", "has, MB"],
            [
                [
                    *(run.label, name, len(x.clients), run.ranks.get(name), x.why or "itself"),
                    _mega(x.planned.get("peak")),
                    _mega(x.memory),
                ]
                for run, name, x in found
            ],
        ),
        Table.of(
            "A client's round: the plan against the mean of what came. Planned seconds are of its "
            "device, links included; those that came are of training, on the machine that played "
            "the run",
            [
                *("run", "device", "replies", "planned s", "s here"),
                *("planned MB down", "planned MB up", "MB up"),
            ],
            [
                [
                    *(run.label, name, x.replies, x.planned.get("seconds"), _mean(x, x.seconds)),
                    *(_mega(x.planned.get("down")), _mega(x.planned.get("up"))),
                    _mega(_mean(x, x.bytes_up)),
                ]
                for run, name, x in found
            ],
        ),
        Table.of(
            "Memory of training, the base's weights aside: what was planned for a client alone on "
            "its largest batch, against the largest pass that was measured where it trained. As "
            "many clients as that pass had shared it",
            ["run", "device", "planned MB", "measured MB", "clients in that pass"],
            [
                [
                    *(run.label, name, _mega(x.planned.get("training")), _mega(x.peak_bytes)),
                    x.cohort,
                ]
                for run, name, x in found
            ],
        ),
    ]
    return Section("devices", "Devices", tuple(blocks))


def _simulated(run: ReportRun) -> str:
    times = [r.simulated for r in run.rounds if r.simulated is not None]
    if not times:
        return ""
    hours = sum(x.seconds for x in times) / 3600
    late = sum(len(x.late) for x in times)
    return (
        f"{run.label}: {count(len(times), 'round')} would have taken {hours:,.3g} hours on these "
        f"devices; {count(late, 'answer')} would have come too late."
    )


def _mean(x: Class, total: float) -> float | None:
    return total / x.replies if x.replies else None


def _mega(amount: float | None) -> float | None:
    return None if amount is None else amount / 1e6
