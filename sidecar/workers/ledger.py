"""What all workers have counted, those that have ended included, and what is answered to one that asks about all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.workers import merging

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sidecar.workers.channel import Message
    from sidecar.workers.crew import Worker
    from sidecar.workers.merging import Snapshot
    from sidecar.workers.rounds import Round


class Ledger:
    """Made and kept by the supervisor."""

    def __init__(self) -> None:
        self.restarts = 0
        self._ended: Snapshot = {}

    def close(self, worker: Worker) -> None:
        """Take over what a worker that has ended had counted when it last said so."""
        self._ended = merging.merged([merging.counters(worker.last)], self._ended, {})

    def answer(self, found: Round, crew: Sequence[Worker], routes: Collection[str], reloads: Snapshot) -> Message:
        """Return the answer to a question that all have answered. `routes` are those in use."""
        supervised: Snapshot = {
            "sidecar_workers": [([], sum(worker.serving for worker in crew))],
            "sidecar_worker_restarts_total": [([], self.restarts)],
            **reloads,
        }
        together = merging.merged([worker.last for worker in crew if worker.pid], self._ended, supervised)
        answers = list(found.answers.values())
        readiness = [answer["readiness"] for answer in answers if "readiness" in answer]
        return {
            "do": "answer",
            "question": found.question,
            "metrics": merging.pruned(together, routes),
            "readiness": merging.ready(readiness, len(crew)),
            "recent": [one for answer in answers for one in answer.get("recent", ())],
        }
