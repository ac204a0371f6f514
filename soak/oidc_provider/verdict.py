"""What must hold, from what provider, API, callers and sidecars saw. Pure: lists in, words and figures out."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from soak.oidc_provider.issuer import RESOURCES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from soak.oidc_provider.issuer import Event
    from soak.oidc_provider.load import Answer
    from soak.oidc_provider.story import End, Failover

OUTAGE = 15.0
"""Seconds after the loss of the primary in which a refusal by name is right, and a session may be lost."""
EARLIEST = 0.25
"""Share of a token's life before which nobody should renew it. The early window is a fifth, but life counts from the
sending of the token request, and on a busy machine it may take a while until the provider sees that."""
UNUSED = 0.05
"""Share of the tokens that nobody may ever have used, and the last of each key: a stalled machine sends too late."""
AROUND = 3.0
"""Seconds around the end of a session in which a renewal that was under way may be refused."""
ROUTE = {one.name: name for name, one in RESOURCES.items()}


def renewals(events: Iterable[Event]) -> list[Event]:
    """Return the renewals that the provider granted."""
    return [one for one in events if one.name == "token" and one["grant"] == "refresh_token" and not one["error"]]


def refusals(events: Iterable[Event]) -> list[Event]:
    """Return the token requests that it refused."""
    return [one for one in events if one.name == "token" and one["error"]]


def doubled(events: Sequence[Event], failovers: Sequence[Failover], life: float) -> list[str]:
    """Return the keys that were renewed twice for one expiry, without a sign-in or a failover between."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    signed_in: dict[str, list[float]] = defaultdict(list)
    for one in renewals(events):
        times[one["subject"], ROUTE[one["resource"]]].append(one.at)
    for one in events:
        if one.name == "token" and one["grant"] == "authorization_code":
            signed_in[one["subject"]].append(one.at)
    return [
        f"{user} on {route}: {second - first:.2f} s between two renewals"
        for (user, route), all_times in times.items()
        for first, second in pairwise(sorted(all_times))
        if second - first < EARLIEST * life
        and not any(first <= at <= second for at in signed_in[user])
        and not during(second, failovers)
    ]


def wasted(events: Sequence[Event], tokens: Mapping[tuple[str, str], Sequence[str]]) -> list[str]:
    """Return the keys for which more was issued than the API ever saw."""
    issued = Counter((str(one["subject"]), ROUTE[one["resource"]]) for one in renewals(events))
    return [
        f"{user} on {route}: {count} tokens issued, {len(tokens.get((user, route), ()))} seen"
        for (user, route), count in issued.items()
        if count - len(tokens.get((user, route), ())) > 1 + UNUSED * count
    ]


def outside(answers: Iterable[Answer], failovers: Sequence[Failover]) -> Counter[str]:
    """Return the refusals that no failover explains."""
    return Counter(
        one.code for one in answers if not any(0 <= one.asked + one.took - end.began <= OUTAGE for end in failovers)
    )


def during(at: float, failovers: Iterable[Failover]) -> bool:
    """Say whether this happened while another primary was looked for, or shortly after; epoch seconds."""
    return any(0 <= at - one.at <= OUTAGE for one in failovers)


def unexplained(events: Sequence[Event], ends: Sequence[End], failovers: Sequence[Failover]) -> list[str]:
    """Return refused token requests that should not have been: one is right for each grant that was revoked."""
    revoked = {one.user for one in ends if one.how == "revoked"}
    refused: dict[str, list[Event]] = defaultdict(list)
    for one in refusals(events):
        refused[one["subject"]].append(one)
    words = []
    for user, found in refused.items():
        ended = [one.at for one in ends if one.user == user]
        found_late = [one for one in found if not any(abs(one.at - at) < AROUND for at in ended)]
        strange = [one for one in found_late if not during(one.at, failovers)]
        words += [f"{user or 'app'}: {one['grant']} refused: {one['error']}" for one in strange]
        if user in revoked and len(found) > 1:
            words.append(f"{user}: {len(found)} token requests for a grant that was revoked")
    return words


def unpermitted(lost: Iterable[Answer], failovers: Sequence[Failover]) -> list[str]:
    """Return the users who had to sign in again although no failover had just been."""
    return sorted({
        one.user for one in lost if not any(0 <= one.asked - end.began <= OUTAGE for end in failovers)
    })  # fmt: skip


def untold(events: Sequence[Event], ends: Sequence[End]) -> list[str]:
    """Return what the provider should have seen of signed-out users and did not, and what went wrong there."""
    seen = {name: [str(one["subject"]) for one in events if one.name == name] for name in ("backchannel", "revocation")}
    words = [
        f"{end.user} signed out: no {name} at the provider"
        for end in ends
        for name in ("backchannel", "revocation")
        if end.how == "sign-out" and end.user not in seen[name]
    ]
    told = set(seen["backchannel"])
    words += [f"{one.user}: no logout token" for one in ends if one.how == "back-channel" and one.user not in told]
    bad = [one for one in events if one.name in {"server_error", "refused"} or one.members.get("status", 200) != 200]
    bad += [one for one in events if one.name == "backchannel" and one["error"] and not one["late"]]
    return words + [f"the provider told {one.name}: {dict(one.members)}" for one in bad]


def outage(answers: Sequence[Answer], failover: Failover) -> dict[str, Any]:
    """Return how long a failover was felt: seconds to another primary, refusals, and when the last of them came."""
    felt = [one for one in answers if 0 <= one.asked + one.took - failover.began <= OUTAGE]
    return {
        "another_primary_after": round(failover.promoted, 2),
        "refused": len(felt),
        "last_refusal_after": round(max((one.asked + one.took - failover.began for one in felt), default=0.0), 2),
        "longest_wait": round(max((one.took for one in felt), default=0.0), 2),
    }
