"""The fields of a config that the train loop itself reads: their types and bounds."""

# Smallest allowed value of each whole number; 0 save_steps saves at the end alone.
NUMBERS = {
    "steps": 1,
    "batch": 1,
    "accumulate": 1,
    "seed": 0,
    "log_steps": 1,
    "save_steps": 0,
    "keep_checkpoints": 1,
    "max_bad_steps": 1,
}
TEXTS = ("method", "init_from", "machine", "offload")
# Sections of whole numbers by name: -1 is "never" in the one, "what is left" in the other.
SECTIONS = {"eval_steps": -1, "mesh": -1}


def check(config: dict) -> None:
    """Raise ValueError for the first field of the loop that is absent or wrong."""
    for field in (*TEXTS, *NUMBERS, *SECTIONS):
        if field not in config:
            raise ValueError(f"config has no field {field!r}, which every run needs")
    for field in TEXTS:
        if not isinstance(config[field], str):
            raise ValueError(f"{field} is {config[field]!r}; use a text")
    for field, least in NUMBERS.items():
        check_number(field, config[field], least)
    for section, least in SECTIONS.items():
        if not isinstance(config[section], dict):
            raise ValueError(
                f"{section} is {config[section]!r}; use a section of numbers"
            )
        for name, value in config[section].items():
            check_number(f"{section}.{name}", value, least)


def check_number(field: str, value, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{field} is {value!r}; use a whole number from {least} up")


def check_names(section: str, given, known) -> None:
    """Raise ValueError unless a section names just what there is."""
    if set(given) != set(known):
        raise ValueError(
            f"{section} names {', '.join(sorted(given))}; it must name just "
            f"{', '.join(sorted(known))}"
        )
