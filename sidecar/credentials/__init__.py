"""Credentials: what is held, when it is renewed, who waits for whom, and how it is kept at rest."""
