"""Plays a case in a world and says which promises were broken.

Each promise is one function that yields what it found; nothing found is the normal end. The readers that it compares
with are `reading.StrictRequests`, which shares no code with the sidecar, and h11.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from fuzz.case import collected
from fuzz.reading import Request, Response, StrictError, h11_requests, h11_response, read_responses
from fuzz.transport import EOF
from fuzz.world import CANARY, LONG, Caller, Peer, World
from sidecar.model import APPLICATION, Origin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fuzz.case import Case
    from sidecar.wire.exchange import Exchange

SAMPLED = 8  # one in so many streams to a caller is read by h11 too; all are read by the strict reader
PATIENCE = 4  # times longer than any deadline
_NEVER = frozenset(
    [
        b"proxy-authorization", b"proxy-authenticate", b"proxy-connection", b"keep-alive", b"te", b"http2-settings",
        b"x-session-id",
    ]
)  # fmt: skip
_NO_LETTER = re.compile(rb"[^a-z0-9]")
_OUR_COOKIE = re.compile(rb"(?:^|[;,])[\s\x85\xa0\"]*sidecar_session[\s\x85\xa0\"]*(?:=|[;,]|$)")
_TAGS = [b"/tag-%d" % number for number in range(64)]


class Seen(NamedTuple):
    """What became of a case. `begun` are the exchanges of its own caller, not of the good one after it."""

    case: Case
    begun: list[Exchange]
    written: bytes
    ended: str
    went: bool  # the caller broke off, or half closed and did not wait
    replays: int


class Good(NamedTuple):
    """The good request after the case, on the route of a connection that waits in a pool."""

    target: bytes
    expected: bytes
    stream: bytes
    written: bytes


def problems(world: World, case: Case) -> list[str]:
    """Play a case; return what is wrong with the outcome."""
    return collected(_problems(world, case))


def _problems(world: World, case: Case) -> Iterator[str]:
    world.fresh()
    before = world.replays()
    caller = _play(world, case)
    yield from _pooled(world)
    good = _good(world)
    yield from _end(world, caller)
    begun = [exchange for exchange in world.begun if exchange.downstream is caller.protocol]
    seen = Seen(case, begun, bytes(caller.transport.written), caller.transport.ended, _went(case),
                world.replays() - before)  # fmt: skip
    if world.loop.faults:
        yield f"the loop was told of {world.loop.faults}"
    yield from _nothing_left(world)
    yield from _upstream_side(world, seen, good)
    yield from _caller_side(world, seen)
    if good is not None:
        yield from _good_answer(good)


# -- playing --------------------------------------------------------------------------------------------------------


def _play(world: World, case: Case) -> Caller:
    world.answers.extend(case.answers)
    world.slow_upstream = case.slow_upstream
    caller = Caller(world)
    for step in case.caller:
        if isinstance(step, bytes):
            caller.transport.deliver(step)
        else:
            _event(world, caller, step)
    world.loop.run()
    if case.slow_upstream:
        world.slow_upstream = False
        for peer in world.peers:
            peer.transport.read_on()
    if caller.transport.slow:
        caller.transport.read_on()
    world.loop.run()
    return caller


def _event(world: World, caller: Caller, name: str) -> None:
    match name:
        case "eof":
            caller.transport.deliver(EOF)
        case "reset":
            caller.transport.deliver(ConnectionResetError())
        case "turn":
            world.loop.run()
        case "wait":
            world.loop.advance(LONG)
        case "slow":
            caller.transport.slow = True
        case _:
            caller.transport.read_on()


def _went(case: Case) -> bool:
    return "reset" in case.caller or "eof" in case.caller


def _good(world: World) -> Good | None:
    """Send a good request where a pooled connection waits for one."""
    idle = world.idle()
    if not idle:
        return None
    world.answers.clear()
    path = _TAGS[len(world.begun) + len(idle) & 63]
    host, path, expected = _route_to(world, idle[-1]._pool._origin, path)
    stream = b"GET http://%b%b HTTP/1.1\r\nHost: x\r\nX-Session-Id: session-good\r\n\r\n" % (host, path)
    caller = Caller(world)
    caller.transport.deliver(stream)
    world.loop.run()
    return Good(path, expected, stream, bytes(caller.transport.written))


def _route_to(world: World, origin: Origin, path: bytes) -> tuple[bytes, bytes, bytes]:
    route = world.routes.get(origin)
    if route is None:
        return origin.authority.encode(), path, path
    if route.name == "base":
        return b"sidecar.internal", b"/base" + path, b"/v1" + path
    return route.match.host.replace("*", "good").encode(), path, path


def _end(world: World, caller: Caller) -> Iterator[str]:
    """Wait longer than any deadline; then the caller goes, for an endless stream and a tunnel end no other way."""
    for _ in range(PATIENCE):
        if not world.wire.downstreams:
            break
        world.loop.advance(LONG)
    transport = caller.transport
    if not transport.lost:
        endless = transport.protocol is not caller.protocol or b"text/event-stream" in transport.written
        if not endless:
            yield "the caller's connection hangs: no deadline ends it"
        transport.break_off()
        world.loop.run()
    world.close_pools()
    world.loop.run()
    for peer in world.peers:
        if peer.tunnel and not peer.transport.lost:
            peer.transport.break_off()
    world.loop.run()


# -- the promises ---------------------------------------------------------------------------------------------------


def _pooled(world: World) -> Iterator[str]:
    """No connection is in a pool that has not been answered whole, or has anything left on it."""
    idle = set(map(id, world.idle()))
    for peer in world.peers if idle else ():
        if id(peer.protocol) in idle and (peer.strict.partial or peer.tunnel or peer.faults):
            yield "a connection with an unfinished request is in the pool"
        if id(peer.protocol) in idle and peer.played and (last := peer.played[-1]).exchange is not None:
            heard = h11_response(bytes(last.sent), last.exchange.head.method, last.ended)
            if isinstance(heard, str) or not heard.whole or heard.rest:
                yield f"a connection with something left of the response is in the pool: {heard}"


def _nothing_left(world: World) -> Iterator[str]:
    wire = world.wire
    if wire.replay_memory:
        yield f"replay memory is {wire.replay_memory}"
        wire.replay_memory = 0
    left = (len(wire.downstreams), wire.upstreams, len(wire.outgoing), len(wire.deadlines._live))
    if any(left):
        yield f"connections are left: downstreams, upstreams, outgoing, deadlines = {left}"
    if world.idle():
        yield "a closed connection is in the pool"
    for exchange in world.begun:
        if not exchange._over or exchange._task is not None:
            yield f"an exchange is left: {exchange.head.method!r} {exchange.head.target!r}"


def _upstream_side(world: World, seen: Seen, good: Good | None) -> Iterator[str]:
    heads = 0
    streams = seen.case.sent + (good.stream if good else b"")
    for peer in world.peers:
        for fault in peer.faults:
            yield f"not for a strict reader: {fault}"
        heads += peer.strict.heads
        if peer.strict.heads > len(peer.served):
            yield "an upstream sees more requests than there were exchanges"
        if not peer.tunnel and not peer.faults:
            yield from _as_h11_reads_it(peer)
        yield from _credentials(world, peer, streams)
        yield from _alone(peer)
        yield from _faithful(peer, seen)
    unanswered = sum(played.exchange is not None and not played.sent for peer in world.peers for played in peer.played)
    messages = len(world.begun) + seen.replays
    if heads > messages + min(unanswered, messages):  # each is sent once more where its connection had died
        yield f"{heads} requests were forwarded for {messages} ({seen.replays} replays), {unanswered} without an answer"


def _as_h11_reads_it(peer: Peer) -> Iterator[str]:
    heard = h11_requests(bytes(peer.transport.written))
    ours = [(one.method, one.target, one.body, one.fields) for one in peer.strict.requests]
    theirs = [(one.method, one.target, one.body, one.fields) for one in heard.requests]
    if heard.broken or ours != theirs:
        yield f"h11 reads what was forwarded differently: {heard} and not {ours}"


def _credentials(world: World, peer: Peer, streams: bytes) -> Iterator[str]:
    route = world.routes.get(peer.origin)
    spec = route.spec if route is not None else None
    if spec is None and CANARY in peer.transport.written:
        yield f"a token went to {peer.origin}, which gets none"
    for request in peer.strict.requests:
        yield from _headers(request, peer)
        if spec is None:
            continue
        if request.all(b"dpop"):
            yield "a caller's DPoP proof was forwarded beside our token"
        values = request.all(b"authorization")
        owner = world.broker.owners.get(values[0].removeprefix(b"Bearer ")) if len(values) == 1 else None
        if owner is None:
            yield f"not one credential of ours: {values}"
        elif owner.fingerprint != spec.fingerprint:
            yield f"the token of another route: {values}"
        elif (owner.identity == APPLICATION) == (spec.grant == "session"):
            yield f"an application's token for a user, or the other way round: {owner.identity!r}"
        elif owner.identity != APPLICATION and owner.identity.encode() not in streams:
            yield f"a token of somebody who did not ask: {owner.identity!r}"


def _alone(peer: Peer) -> Iterator[str]:
    """Whom the upstream knows by the connection has it alone from then on."""
    for number, request in enumerate(peer.strict.requests):
        if any(value.lower().startswith((b"ntlm", b"negotiate")) for value in request.all(b"authorization")):
            if len({id(exchange.downstream) for exchange in peer.served[number:]}) > 1:
                yield "somebody else got the connection on which a caller had authenticated"
            return


def _headers(request: Request, peer: Peer) -> Iterator[str]:
    names = [name for name, _ in request.fields]
    if request.all(b"host") != [peer.origin.authority.encode()]:
        yield f"Host is {request.all(b'host')}"
    for name in names:
        if name in _NEVER or _NO_LETTER.sub(b"-", name) == b"x-session-id":
            yield f"{name!r} was forwarded"
    if b"connection" in names and b"upgrade" not in names:
        yield "Connection was forwarded"
    for cookie in request.all(b"cookie"):
        if _OUR_COOKIE.search(cookie):
            yield f"our cookie was forwarded: {cookie!r}"


def _faithful(peer: Peer, seen: Seen) -> Iterator[str]:
    """Compare each forwarded request with what h11 reads in the caller's own bytes."""
    if not peer.strict.requests:
        return
    heard = h11_requests(seen.case.sent)
    for request, exchange in zip(peer.strict.requests, peer.served, strict=False):
        if exchange not in seen.begun:
            continue
        number = seen.begun.index(exchange)
        if number >= len(heard.requests):
            yield f"h11 does not read the request that was forwarded as number {number}: {heard} · {request}"
            continue
        theirs = heard.requests[number]
        if (theirs.method, theirs.body) != (request.method, request.body) or theirs.target != exchange.head.target:
            yield f"h11 reads request number {number} differently: {theirs} · {request}"
        elif request.target != b"*" and not theirs.target.endswith(request.target.removeprefix(b"/v1").lstrip(b"/")):
            yield f"another target was forwarded: {request.target!r} for {theirs.target!r}"


def _caller_side(world: World, seen: Seen) -> Iterator[str]:
    if CANARY in seen.written:
        yield "a token was written to the caller"
    methods = [exchange.head.method for exchange in seen.begun]
    try:
        responses, _rest = read_responses(seen.written, methods)
    except StrictError as error:
        yield f"the caller gets what is no response: {error}"
        return
    if len(responses) > len(seen.begun) + 1:
        yield f"{len(responses)} responses to {len(seen.begun)} requests"
    for number, response in enumerate(responses):
        bare = (
            number >= len(seen.begun) and not response.body and b"HEAD " in seen.case.sent
        )  # a HEAD that was no request
        if not (response.whole or bare) and seen.ended != "reset":
            yield f"a response is broken off, and the connection ends by {seen.ended!r}: {response}"
        if response.whole and number < len(seen.begun):
            yield from _own_answer(world, seen, number, response)
    if len(responses) < len(seen.begun) and not (seen.ended == "reset" or seen.went):
        yield f"{len(responses)} responses to {len(seen.begun)} requests, and a clean end"


def _own_answer(world: World, seen: Seen, number: int, response: Response) -> Iterator[str]:
    """Compare a whole response with what h11 reads in the upstream's own bytes."""
    exchange = seen.begun[number]
    if response.status == 101 or exchange.head.method == b"CONNECT" or response.all(b"proxy-status"):
        return
    if response.all(b"x-session-id") or any(
        value.startswith(b"sidecar_session=") for value in response.all(b"set-cookie")
    ):
        yield f"an upstream set our own identifiers: {response.fields}"
    if response.until_close and seen.ended == "reset":
        return
    played = [one for peer in world.peers for one in peer.played if one.exchange is exchange]
    if not played:
        yield f"an answer from nowhere: {response}"
        return
    theirs = h11_response(bytes(played[-1].sent), exchange.head.method, played[-1].ended)
    if isinstance(theirs, str) or not theirs.whole:
        yield f"a response that h11 does not take for whole was passed on as such: {theirs} · {response}"
    elif (theirs.status, theirs.body) != (response.status, response.body):
        yield f"h11 reads the response differently: {theirs} · {response}"
    if len(seen.written) % SAMPLED:
        return
    again = h11_response(seen.written[response.at :], exchange.head.method, response.until_close)
    if isinstance(again, str) or (again.status, again.body, again.whole) != (response.status, response.body, True):
        yield f"h11 reads what the caller got differently: {again} · {response}"


def _good_answer(good: Good) -> Iterator[str]:
    try:
        responses, _ = read_responses(good.written, [b"GET"])
    except StrictError as error:
        yield f"the good caller gets what is no response: {error}"
        return
    expected = b"GET " + good.expected
    if [(one.status, one.body, one.whole) for one in responses] != [(200, expected, True)]:
        yield f"the good caller asked for {expected!r} and got {good.written!r}"
