"""Several workers on one port: a supervisor that starts them, and what they tell each other through it.

The supervisor reads nothing that comes from the network. With one worker none of this is imported.
"""
