"""A method without a network, for tests of the loop: compiled in no time."""

RENAMED: dict[str, str] = {}
