"""Attention masks by position: full, causal and block-causal, as small static values."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mask:
    """Which keys a query sees: all, or those of its own step and of earlier steps.

    A step is `step_tokens` consecutive tokens; 0 means no order (full attention). A query
    sees a prefix of the keys, so that one index per query describes the mask and no
    kernel needs an array [queries, keys].
    """

    step_tokens: int = 0

    def __post_init__(self):
        if self.step_tokens < 0:
            raise ValueError(
                f"mask step_tokens is {self.step_tokens}; expected 0 or more"
            )

    @property
    def ordered(self) -> bool:
        """Whether the mask hides any keys."""
        return self.step_tokens > 0

    def last_key(self, position):
        """Index of the last key that a query at `position` sees; ints or int arrays."""
        assert self.ordered
        step = self.step_tokens
        return position if step == 1 else position // step * step + step - 1


FULL = Mask()
CAUSAL = Mask(1)


def block_causal(step_tokens: int) -> Mask:
    """Tokens of one time step see each other and all earlier steps."""
    if step_tokens < 1:
        raise ValueError(f"step_tokens is {step_tokens}; expected 1 or more")
    return Mask(step_tokens)
