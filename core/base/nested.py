"""Dictionaries in dictionaries, and the same flat, by names with a separator."""


def flatten(nested, separator="/", prefix="") -> dict:
    """{"a": {"b": x}} -> {"a/b": x}, for whatever has items."""
    flat = {}
    for name, value in nested.items():
        if hasattr(value, "items"):
            flat |= flatten(value, separator, f"{prefix}{name}{separator}")
        else:
            flat[prefix + name] = value
    return flat


def nest(flat: dict) -> dict:
    """{"a/b": x} -> {"a": {"b": x}}."""
    nested = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        inner = nested
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = value
    return nested
