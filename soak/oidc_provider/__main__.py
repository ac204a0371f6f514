"""Two sidecars, npm's oidc-provider with rotation, Debian's Redis: expiries, failovers, sign-outs, all under load.

No request carries another user's token, nobody is signed out but by wish (or, counted, in a failover's window), each
expiry costs one renewal, and one second after a sign-out no instance uses the session.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Any

from soak.command import main, progress
from soak.oidc_provider import issuer, verdict
from soak.oidc_provider.load import Load, Phase
from soak.oidc_provider.stage import Stage, standing
from soak.oidc_provider.story import Story

OPTIONS = {
    "instances": (2, "sidecars"),
    "users": (12, "users who sign in; at least three times --ends"),
    "life": (8, "seconds that an access token lives"),
    "duration": (90.0, "seconds of undisturbed load before the failovers, and half of it after the sign-outs"),
    "failovers": (2, "times that Redis loses its primary"),
    "between": (15.0, "seconds of load after a failover, and again after what was killed has come back"),
    "ends": (3, "sessions that are ended in each of three ways"),
    "pause": (0.2, "seconds between two requests of a user to one instance, on average"),
    "seed": (1, "of everything that is drawn at random"),
}


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    async with standing(arguments) as stage:
        load = Load(stage.sidecars, arguments.pause, arguments.seed)
        story = Story(stage, load, arguments)
        try:
            await story.tell()
        finally:
            await load.end()
        show(load.phases)
        return figures(stage, load, story, arguments)


def figures(stage: Stage, load: Load, story: Story, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what is printed, `failures` among it."""
    events, tokens = stage.issuer.events, stage.api.tokens
    renewed = verdict.renewals(events)
    return {
        "program": "oidc_provider",
        "instances": len(stage.sidecars),
        "users": arguments.users,
        "sign_ins": story.sign_ins,
        "sign_outs_sent_again": story.again,
        "pushed_requests": len(stage.issuer.told("pushed")),
        "requests": sum(sum(phase.codes.values()) for phase in load.phases),
        "served": dict(stage.api.served),
        "renewals": len(renewed),
        "renewals_by_key": spread_of(renewed),
        "app_tokens": len(stage.issuer.told("token", grant="client_credentials", error="")),
        "api_401": dict(stage.api.refused),
        "refused_renewals": len(verdict.refusals(events)),
        "failovers": [verdict.outage(load.unavailable, one) for one in story.failovers],
        "sessions_lost_in_failovers": len({one.user for one in load.lost}),
        "last_token_after_end": story.figures(),
        "back_channel_logouts": len(stage.issuer.told("backchannel", error="")),
        "back_channel_answers_too_late": len(stage.issuer.told("backchannel", late=True)),
        "revocations": len(stage.issuer.told("revocation")),
        "complaints": sum((one.complaints() for one in stage.sidecars), Counter()),
        "failures": {
            "wrong_token": stage.api.wrong[:10],
            "wrong_answer": load.wrong[:10],
            "story": story.wrong[:10],
            "renewed_twice": verdict.doubled(events, story.failovers, arguments.life)[:10],
            "never_used": verdict.wasted(events, tokens)[:10],
            "refused": verdict.unexplained(events, story.ends, story.failovers)[:10],
            "lost": verdict.unpermitted(load.lost, story.failovers),
            "unavailable": dict(verdict.outside(load.unavailable, story.failovers)),
            "late": [f"{one.user}, {one.how}" for one in story.ends if story.last[one.user] > one.allowed],
            "provider": verdict.untold(events, story.ends)[:10],
        },
    }  # fmt: skip


def spread_of(renewed: list[issuer.Event]) -> list[int]:
    """Return the fewest and the most renewals of one key."""
    counts: dict[tuple[str, str], int] = {}
    for one in renewed:
        key = (one["subject"], one["resource"])
        counts[key] = counts.get(key, 0) + 1
    return [min(counts.values(), default=0), max(counts.values(), default=0)]


def show(phases: list[Phase]) -> None:
    """Print what callers were answered, chapter by chapter."""
    columns = f"{'seconds':>8}{'requests':>10}{'200':>9}{'login_required':>16}{'503':>6}{'longest s':>11}"
    progress(f"{'chapter':<18}{columns}")
    for one in phases:
        if one.seconds:
            away = sum(count for code, count in one.codes.items() if code not in {"200", "login_required"})
            counts = f"{one.codes.total():>10}{one.codes['200']:>9}{one.codes['login_required']:>16}{away:>6}"
            progress(f"{one.name:<18}{one.seconds:>8.1f}{counts}{one.worst:>11.2f}")


def read() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m soak.oidc_provider", description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    for name, (default, meaning) in OPTIONS.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=meaning)
    arguments = parser.parse_args()
    if arguments.users < 3 * arguments.ends:
        parser.error("--users has to be three times --ends at least")
    return arguments


if __name__ == "__main__":
    asked = read()
    if missing := issuer.missing():
        sys.exit(f"{missing} is needed")
    main(run, asked)
