"""How colours are drawn: of every photo of a call alike."""

from typing import NamedTuple

from tintlab.errors import ConfigError
from tintlab.model.sampler import Rule

MAX_DRAWS = 64
"""Of one photo: all are drawn at once, each in memory of its own."""


class Drawing(NamedTuple):
    """How colours are drawn; see `tintlab.model.sampler`."""

    temperature: float | None = 1.0
    """0 takes the most likely bin at every step; None leaves it to `at`."""
    top_p: float = 1.0
    """Only the most likely bins that together reach this probability; 1 considers all."""
    samples: int = 1
    """Pictures of each photo. The first does not depend on how many there are."""
    best_of: int = 1
    """Draw so many and paint the one that the model finds most likely."""

    @property
    def draws(self) -> int:
        """Draws of each photo."""
        return max(self.samples, self.best_of)

    @property
    def rule(self) -> Rule:
        """How a token is chosen. Raises: ConfigError: a value is out of range."""
        rule = Rule(1.0 if self.temperature is None else self.temperature, self.top_p)
        rule.check()
        return rule

    def at(self, temperature: float) -> "Drawing":
        """The same, at this temperature if it has none."""
        return self._replace(temperature=temperature) if self.temperature is None else self

    def check(self) -> "Drawing":
        """Itself. Raises: ConfigError: a value is out of range, or samples of the best."""
        _ = self.rule
        for name, number in (("samples", self.samples), ("best_of", self.best_of)):
            if not 1 <= number <= MAX_DRAWS:
                raise ConfigError(f"{name} must be in [1, {MAX_DRAWS}], got {number}")
        if self.samples > 1 and self.best_of > 1:
            raise ConfigError("there is one best of several; give samples or best_of, not both")
        return self


PLAIN = Drawing()
"""One draw from the model as it is."""
