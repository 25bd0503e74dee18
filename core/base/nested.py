"""Nested dictionaries, flattened into one dictionary with joined keys, and back."""


def flatten(nested, separator="/", prefix="") -> dict:
    """{"a": {"b": x}} -> {"a/b": x}. Any value with an `items` method is descended into.

    prefix: put before every key.
    """
    flat = {}
    for name, value in nested.items():
        if hasattr(value, "items"):
            flat |= flatten(value, separator, f"{prefix}{name}{separator}")
        else:
            flat[prefix + name] = value
    return flat


def nest(flat: dict) -> dict:
    """{"a/b": x} -> {"a": {"b": x}}: the inverse of `flatten` for the separator "/"."""
    nested = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        inner = nested
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = value
    return nested
