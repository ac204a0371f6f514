"""Many real sidecars, one store, a strict authorization server, and what goes wrong: see docs/soak.md."""
