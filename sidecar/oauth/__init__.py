"""OAuth as values: what a token request looks like and what a response means. No I/O, no clock, no environment."""
