"""`kdpipe report`: all that was evaluated, as one page with pictures."""

from __future__ import annotations

from kdpipe_stages.output import Json, Manifests, say


def report(manifests: Manifests = None, json: Json = False) -> None:
    """Write artifacts/report: tables, curves and pictures of all that was evaluated."""
    from kdpipe import report as library

    done = library.run(manifests=manifests)
    line = f"{done.runs} teachers and students side by side: {done.path}"
    say(line, {"path": str(done.path), "boards": done.boards, "runs": done.runs}, json=json)
