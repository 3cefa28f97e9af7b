"""The function chosen by a stage, with its settings."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from aeoskit_experiments.options import Value
from aeoskit_experiments.parts import Code, source_of
from aeoskit_experiments.pipelines._label import label
from aeoskit_experiments.pipelines._registry import function_of, is_own


@dataclasses.dataclass(frozen=True)
class Choice:
    """A function with its settings: a data set, a model, a loss or an optimizer.

    Args:
        stage: The stage that chose it ("optimizer").
        variant: Its name ("adam"), or the reference to a user's own part ("./opt.py:mine").
        settings: Every option with its value; a tuple where an array leaf is swept.
        seed: The seed of the initial parameters (models only).
        code: The source of a user's own part.
    """

    stage: str
    variant: str
    settings: Mapping[str, Value]
    seed: int = 0
    code: Code | None = None

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself; importing it may import jax."""
        code = self.code
        if code is None:  # not typed here, but read: it has to bring its source
            code = source_of(self.variant, {})
        return function_of(self.stage, self.variant, code)

    @property
    def label(self) -> str:
        """The choice as messages name it."""
        return label(self.stage, self.variant)

    @property
    def every(self) -> int:
        """Steps between two measurements of a user's own probe, if it has that option."""
        every = self.settings.get("every")
        return every if isinstance(every, int) else 1

    def build(self, **overrides: Any) -> Any:
        """Call the function with the settings, some of them replaced (by a lane's arrays, say)."""
        settings = {**self.settings, **overrides}
        if is_own(self.stage, self.variant):
            from aeoskit_experiments.adapters import adapt  # imports jax

            return adapt(self.stage, self.label, self.function, settings)
        if self.stage == "loss":
            return self.function  # aeoskit's losses are modules, without options
        warmup = settings.pop("warmup", None) if self.stage == "optimizer" else None
        if warmup:
            from aeoskit.optimizers import LinearWarmup

            settings["lr"] = LinearWarmup(settings["lr"], warmup)
        return self.function(**settings)
