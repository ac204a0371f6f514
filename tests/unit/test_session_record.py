"""Which stored token serves which route, how chains go on and end, and records as bytes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.credentials.session_codec import decode, encode
from sidecar.credentials.session_record import (
    ABSOLUTE_LIFE,
    IDLE_LIFE,
    MOST_TOKENS,
    Bought,
    Chain,
    SessionRecord,
    Step,
    home,
    renewed,
    rotated,
    serves,
    signed_in,
)
from sidecar.errors import StoreBrokenError
from sidecar.model import Granted, Identity, Secret, Token, TokenSpec

NOW = 1_800_000_000.0
SPEC = TokenSpec("idp", "https://idp.test", "app", "session", scopes=frozenset({"read"}))


def token(scopes: str | None = None, life: float = 3600.0) -> Token:
    """Return a token asked for now."""
    return Token(Secret("access"), NOW, NOW + life, None if scopes is None else frozenset(scopes.split()))


def bought(scopes: str | None, spec: TokenSpec = SPEC, **changes: object) -> Bought:
    """Return a stored token that was bought for `spec`, but for the changes."""
    made = Bought(
        token(scopes),
        1,
        spec.fingerprint,
        spec.grant,
        spec.audience,
        spec.resources,
        spec.params,
        spec.binding,
    )
    return replace(made, **changes)


def scoped(scopes: str, **changes: object) -> TokenSpec:
    """Return the spec of a route with these scopes."""
    return replace(SPEC, scopes=frozenset(scopes.split()), **changes)


OTHER = "another route's"
SIGN_IN = {"fingerprint": "", "params": None}


@pytest.mark.parametrize(
    ("stored", "spec", "expected"),
    [
        pytest.param(bought("read"), SPEC, True, id="own"),
        pytest.param(bought(None), SPEC, True, id="own-scope-unnamed"),
        pytest.param(bought("", scoped("a b")), scoped("a b"), False, id="own-granted-nothing"),
        pytest.param(bought("a", scoped("a b")), scoped("a b"), False, id="own-narrowed"),
        pytest.param(bought("https://x/a", scoped("a")), scoped("a"), True, id="own-other-spelling"),
        pytest.param(bought("a", scoped("a openid")), scoped("a openid"), True, id="own-openid-not-repeated"),
        pytest.param(bought("read write", fingerprint=OTHER), SPEC, True, id="wider"),
        pytest.param(bought("write", fingerprint=OTHER), SPEC, False, id="other-scope"),
        pytest.param(
            bought("read", fingerprint=OTHER), scoped("read openid offline_access"), True, id="protocol-scope"
        ),
        pytest.param(bought("read", fingerprint=OTHER), scoped("read write"), False, id="narrower"),
        pytest.param(bought("read,write", fingerprint=OTHER), SPEC, False, id="PD-03-comma-is-no-separator"),
        pytest.param(bought("read", fingerprint=OTHER), scoped(""), False, id="part-for-a-route-that-names-none"),
        pytest.param(bought("read", **SIGN_IN), scoped(""), True, id="sign-in-for-a-route-that-names-none"),
        pytest.param(bought(None, **SIGN_IN), SPEC, True, id="sign-in-scope-unnamed"),
        pytest.param(bought("read", **SIGN_IN), replace(SPEC, params=(("a", "b"),)), True, id="sign-in-params"),
        pytest.param(bought("read", fingerprint=OTHER, params=(("a", "b"),)), SPEC, False, id="other-params"),
        pytest.param(bought("read", **SIGN_IN, audience="x"), SPEC, False, id="LK-03-audience-not-asked-for"),
        pytest.param(bought("read", **SIGN_IN), replace(SPEC, audience="x"), False, id="LK-03-audience-unknown"),
        pytest.param(bought("read", **SIGN_IN, audience="x"), replace(SPEC, audience="x"), True, id="audience-agrees"),
        pytest.param(bought("read", **SIGN_IN), replace(SPEC, resources=("x",)), False, id="resource-unknown"),
        pytest.param(
            bought("read", **SIGN_IN, resources=("y", "x")), replace(SPEC, resources=("x", "y")), True, id="resources"
        ),
        pytest.param(
            bought("read", **SIGN_IN, resources=("x", "y")), replace(SPEC, resources=("x",)), False, id="more"
        ),
        pytest.param(bought("read", **SIGN_IN), replace(SPEC, binding="key"), False, id="bound"),
        pytest.param(bought("read", **SIGN_IN), replace(SPEC, grant="token_exchange"), False, id="PD-11-other-grant"),
    ],
)
def test_stored_token_serves_a_route_only_where_everything_agrees(
    stored: Bought, spec: TokenSpec, expected: bool
) -> None:
    """Scope covers; audience, resources, grant, parameters and binding are equal."""
    assert serves(stored, spec) is expected


def test_chain_of_another_issuer_or_client_is_not_found() -> None:
    """A refresh token never reaches an authorization server that did not issue it, whatever the configuration says."""
    record = SessionRecord(NOW, NOW, None, {"idp": Chain(home(SPEC), int(NOW * 1000), 1)})
    assert record.chain("idp", home(SPEC), NOW)
    assert record.chain("idp", home(replace(SPEC, issuer="https://other.test")), NOW) is None
    assert record.chain("idp", home(replace(SPEC, client="other")), NOW) is None
    assert record.chain("other", home(SPEC), NOW) is None


@pytest.mark.parametrize(
    ("at", "alive"),
    [(NOW + IDLE_LIFE - 1, True), (NOW + IDLE_LIFE + 1, False)],
    ids=["in use", "idle"],
)
def test_idle_session_ends(at: float, alive: bool) -> None:
    """Seven days after its last use."""
    record = SessionRecord(NOW, NOW, None, {"idp": Chain(home(SPEC), int(NOW * 1000), 1)})
    assert (record.chain("idp", home(SPEC), at) is not None) is alive


def test_sign_in_ends_after_its_absolute_lifetime() -> None:
    """Thirty days after the sign-in, however busy; the session ends with its last chain."""
    end = NOW + ABSOLUTE_LIFE
    record = SessionRecord(NOW, end, None, {"idp": Chain(home(SPEC), int(NOW * 1000), 1)})
    assert record.chain("idp", home(SPEC), end - 1)
    assert record.chain("idp", home(SPEC), end + 1) is None
    assert record.ends_at == end


def test_renewal_without_refresh_token_keeps_the_old() -> None:
    """[RF-09] RFC 6749 section 6."""
    chain = signed_in(home(SPEC), 1, 1, Granted(token(), Secret("r1")))
    assert renewed(chain, SPEC, Granted(token()), NOW).refresh_token == Secret("r1")
    assert renewed(chain, SPEC, Granted(token(), Secret("r2")), NOW).refresh_token == Secret("r2")
    assert rotated(chain, Secret("r3")).refresh_token == Secret("r3")


def test_every_change_of_a_chain_is_a_step_past_the_one_before() -> None:
    """A renewal, and a response that brought a refresh token alone."""
    first = signed_in(home(SPEC), 1, 5, Granted(token(), Secret("r1")))
    second = renewed(first, SPEC, Granted(token()), NOW)
    steps = [first.step, second.step, rotated(second, Secret("r")).step]
    for number, step in enumerate(steps):
        assert [step.passes(other) for other in steps] == [other < number for other in range(3)]
        assert [step.reaches(other) for other in steps] == [other <= number for other in range(3)]


def test_steps_of_two_sign_ins_have_no_order() -> None:
    """What is known of one says nothing of the other, and nobody can compare them by mistake."""
    one, other = Step(1, 9), Step(2, 1)
    assert [one.passes(other), one.reaches(other), other.passes(one), other.reaches(one)] == 4 * [False]
    with pytest.raises(TypeError):
        _ = one < other  # type: ignore[operator]


def test_chain_keeps_a_bounded_number_of_unexpired_tokens() -> None:
    """The newest of each spec; expired ones go."""
    chain = signed_in(home(SPEC), 1, 1, Granted(token(life=10), Secret("r")))
    for number in range(3 * MOST_TOKENS):
        chain = renewed(chain, scoped(f"s{number % (2 * MOST_TOKENS)}"), Granted(token()), NOW + 20)
    assert len(chain.tokens) == MOST_TOKENS
    assert len({kept.fingerprint for kept in chain.tokens}) == MOST_TOKENS
    assert "" not in {kept.fingerprint for kept in chain.tokens}


def test_newest_unrejected_token_is_found_before_a_longer_lived_rejected_one() -> None:
    """[RF-13] What is older than a rejected token is not tried again."""
    old, new = bought("read", generation=1), bought("read", generation=2, fingerprint=OTHER)
    old = replace(old, token=token("read", 7200))
    chain = Chain(home(SPEC), 1, 7, 2, None, (old, new))
    assert chain.find(SPEC, None) is old
    assert chain.find(SPEC, Step(7, 1)) is new
    assert chain.find(SPEC, Step(8, 99)) is old  # of another sign-in


texts = st.text(max_size=8)
secrets = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20).map(Secret)
times = st.floats(0, 4e9)
counts = st.integers(1, 2**62)
tokens = st.builds(Token, secrets, times, times, st.none() | st.frozensets(texts, max_size=3), texts)
pairs = st.none() | st.lists(st.tuples(texts, texts), max_size=2).map(tuple)
boughts = st.builds(Bought, tokens, counts, texts, texts, texts, st.lists(texts, max_size=2).map(tuple), pairs, texts)
identities = st.none() | st.builds(Identity, texts, texts, texts)
chains = st.builds(
    Chain,
    texts,
    counts,
    counts,
    counts,
    st.none() | secrets,
    st.lists(boughts, max_size=3).map(tuple),
    identities,
    st.none() | secrets,
)
records = st.builds(
    SessionRecord, times, times, st.none() | texts, st.dictionaries(texts, chains, max_size=2), times, times
)


@given(records)
def test_record_comes_back_as_it_was(record: SessionRecord) -> None:
    """Encoding loses nothing."""
    assert decode(encode(record)) == record


@given(st.binary(max_size=60))
def test_foreign_bytes_are_no_record(junk: bytes) -> None:
    """[RD-10] Whatever is not ours is refused by name, and its content is not repeated."""
    with pytest.raises(StoreBrokenError) as caught:
        decode(junk)
    assert caught.value.__cause__ is None


def full() -> SessionRecord:
    """Return a record in which every member is set."""
    identity = Identity("https://idp.test", "sub", "sid")
    chain = Chain("home", 1, 1, 1, Secret("refresh"), (bought("read"),), identity, Secret("i.d.token"))
    return SessionRecord(NOW, NOW, "sub", {"idp": chain})


def paths(value: object, at: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Return the place of every member of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for name, member in items for path in [(*at, name), *paths(member, (*at, name))]]


@pytest.mark.parametrize("path", paths(json.loads(encode(full()))), ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize(
    "wrong", [{"x": {}}, True, "ü \n", -1.5, None], ids=["object", "bool", "text", "number", "null"]
)
def test_damaged_member_makes_no_record_or_one_that_reads_the_same(path: tuple[object, ...], wrong: object) -> None:
    """[RD-10] No wrong type passes: what is accepted is a record that would be written like that."""
    document = json.loads(encode(full()))
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = wrong
    try:
        record = decode(json.dumps(document).encode())
    except StoreBrokenError:
        return
    assert json.loads(encode(record)) == document


def test_missing_or_further_member_makes_no_record() -> None:
    """[ST-13] A record of a later version is not half understood."""
    document = json.loads(encode(full()))
    for change in ({"more": 1}, {"format": 2}):
        with pytest.raises(StoreBrokenError):
            decode(json.dumps({**document, **change}).encode())
    del document["subject"]
    with pytest.raises(StoreBrokenError):
        decode(json.dumps(document).encode())


def test_record_from_before_sign_ins_is_read() -> None:
    """Members that came later have a meaning where they are absent; nobody is signed out by a new version."""
    document = json.loads(encode(full()))
    for name in ("idle", "absolute"):
        del document[name]
    for name in ("identity", "id_token", "sign_in"):
        del document["chains"]["idp"][name]
    record = decode(json.dumps(document).encode())
    assert (record.idle, record.absolute) == (IDLE_LIFE, ABSOLUTE_LIFE)
    assert record.chains["idp"] == replace(full().chains["idp"], identity=None, id_token=None)


@pytest.mark.parametrize(
    ("idle", "absolute", "ends"), [(100.0, 1000.0, NOW + 100), (1000.0, 100.0, NOW + 100), (50.0, 50.0, NOW + 50)]
)
def test_lifetimes_are_those_of_the_sign_in(idle: float, absolute: float, ends: float) -> None:
    """The shorter one ends the session."""
    chain = Chain(home(SPEC), int(NOW * 1000), 1)
    record = SessionRecord(NOW, NOW, None, {"idp": chain}, idle, absolute)
    assert record.ends_at == ends
    assert record.chain("idp", home(SPEC), ends - 1) == chain
    assert record.chain("idp", home(SPEC), ends) is None


def test_newer_id_token_is_kept_where_somebody_signed_in() -> None:
    """It is the hint of the sign-out; what an application hands over is not kept."""
    granted = Granted(token(), Secret("r"), Secret("first"))
    identity = Identity("https://idp.test", "alice")
    chain = signed_in(home(SPEC), 1, 1, granted, identity=identity)
    assert (chain.identity, chain.id_token) == (identity, Secret("first"))
    assert renewed(chain, SPEC, Granted(token()), NOW).id_token == Secret("first")
    assert renewed(chain, SPEC, Granted(token(), None, Secret("second")), NOW).id_token == Secret("second")
    assert renewed(chain, SPEC, Granted(token()), NOW).identity == identity
    assert signed_in(home(SPEC), 1, 1, granted).id_token is None


def test_secrets_do_not_show_in_a_record() -> None:
    """Nothing of a token is in any repr."""
    shown = repr(full())
    assert "refresh'" not in shown
    assert "access" not in shown
