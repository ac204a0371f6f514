"""Fuzzing of the wire: mutated requests and responses through the real corridor, in process and over sockets."""
