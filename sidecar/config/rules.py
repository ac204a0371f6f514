"""What the keys of a configuration mean together: the list of rules, one line each.

Each rule looks at what could be read and yields findings; none stops another. Rules are pure, but for the questions
to this machine that `World` answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.config import door_rules, login_rules, provider_rules, route_rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.config.finding import Finding, Rule, World
    from sidecar.config.sections import Parsed

RULES: tuple[Rule, ...] = (
    route_rules.routes_are_there,
    route_rules.providers_are_known,
    route_rules.route_names_are_unique,
    route_rules.routes_match_something,
    route_rules.routes_differ,
    route_rules.none_has_no_token,
    route_rules.grants_fit,
    route_rules.users_have_sessions,
    route_rules.tokens_go_encrypted,
    door_rules.apps_are_known,
    door_rules.apps_have_their_own_proofs,
    door_rules.proofs_are_no_sessions,
    door_rules.upstreams_are_elsewhere,
    door_rules.listeners_are_there,
    door_rules.addresses_differ,
    door_rules.admin_is_guarded,
    door_rules.listeners_are_guarded,
    login_rules.login_has_a_provider,
    login_rules.login_providers_are_complete,
    login_rules.login_asks_for_an_id_token,
    login_rules.login_is_encrypted,
    login_rules.login_cookie_is_looked_for,
    login_rules.login_parameters_are_its_own,
    login_rules.login_max_age_is_a_number,
    login_rules.sessions_live_long_enough,
    provider_rules.providers_are_complete,
    provider_rules.providers_are_encrypted,
    provider_rules.tls_files_are_there,
    provider_rules.store_is_known,
    provider_rules.store_keys_are_keys,
    provider_rules.workers_share_the_store,
)


def judge(parsed: Parsed, world: World) -> Iterator[Finding]:
    """Yield what every rule finds."""
    for rule in RULES:
        yield from rule(parsed, world)
