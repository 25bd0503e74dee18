"""A section of a config: read-only fields that become arguments, with errors by name."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from core.base.names import nearest

T = TypeVar("T")


class Section(Mapping[str, Any]):
    """Fields of a config, by `section.field` or `section["field"]`; nested ones alike.

    A field that is absent, unknown or set twice raises a ValueError that says where it
    stands in the config.
    """

    def __init__(self, fields: Mapping[str, Any], path: str = ""):
        self._fields, self._path = dict(fields), path

    def __getitem__(self, name: str) -> Any:
        if name not in self._fields:
            raise ValueError(
                f"config has no field {self.where(name)!r} where it is needed"
                f"{nearest(name, self._fields)}"
            )
        value = self._fields[name]
        return Section(value, self.where(name)) if is_section(value) else value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)  # copying and pickling ask for these
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def where(self, name: str) -> str:
        """The place of a field in the config, such as "data.fps"."""
        return f"{self._path}.{name}" if self._path else name

    def without(self, *names: str) -> "Section":
        """The same section but for some fields."""
        rest = {k: v for k, v in self._fields.items() if k not in names}
        return Section(rest, self._path)

    def only(self, *names: str) -> "Section":
        """Some fields of the section."""
        for name in names:
            self[name]
        return Section({name: self._fields[name] for name in names}, self._path)

    def replace(self, **changes: Any) -> "Section":
        """The section with other values of some of its fields."""
        for name in changes:
            self[name]
        return Section({**self._fields, **changes}, self._path)

    def to_dict(self) -> dict[str, Any]:
        """A copy as nested dicts."""
        return {
            k: v.to_dict() if isinstance(v, Section) else v for k, v in self.items()
        }

    def check(self, function: Callable, *given: str) -> None:
        """Raise ValueError unless the fields are the arguments of a function.

        given: names of arguments that the caller sets itself.
        """
        known = inspect.signature(function).parameters.values()
        names = {p.name for p in known if p.kind is not p.VAR_KEYWORD}
        for name in self._fields:
            if name in given:
                raise ValueError(
                    f"config sets {self.where(name)}, which its method sets itself"
                )
            if name not in names:
                raise ValueError(
                    f"config has an unknown field {self.where(name)}"
                    f"{nearest(name, names - set(given))}"
                )
        for p in known:
            needed = p.default is p.empty and p.kind not in (
                p.VAR_KEYWORD,
                p.VAR_POSITIONAL,
            )
            if needed and p.name not in self._fields and p.name not in given:
                place = f" of {self._path}" if self._path else ""
                raise ValueError(f"config lacks the field {p.name!r}{place}")

    def bind(self, function: Callable[..., T], *later: str, **given: Any):
        """The function with its fields and `given` bound, after `check`.

        later: arguments that the caller of the result gives.
        """
        self.check(function, *later, *given)
        return functools.partial(function, **self, **given)

    def into(self, function: Callable[..., T], **given: Any) -> T:
        """function(**fields, **given), after `check`."""
        return self.bind(function, **given)()


def is_section(value: Any) -> bool:
    return isinstance(value, Mapping)
