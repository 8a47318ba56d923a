"""NNI 2's ADMMPruner."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gracile.compat.nni.common.allocating import allocate
from gracile.compat.nni.common.checking import count
from gracile.compat.nni.common.evaluator import Evaluator
from gracile.compat.nni.common.rules import Rule
from gracile.compat.nni.common.scoring import Scoring
from gracile.compat.nni.v2.base import Training
from gracile.errors import InputError
from gracile.maths import criteria
from gracile.session.regularizers import ADMM, Multipliers


class ADMMPruner(Training):
    """Draws weights to the nearest ones with enough zeros while the model trains, then masks by magnitude.

    Zhang et al., "A Systematic DNN Weight Pruning Framework using ADMM", 2018, arXiv:1804.03294; the penalty is the
    paper's rho/2 ||W - Z + U||_F^2, with the squared norm, and ``rho`` stands in the config_list (1e-4).

    Args:
        iterations: updates of Z and U.
        training_epochs: epochs before each of them.
        granularity: "fine-grained" masks single weights, "coarse-grained" whole outputs.

    Raises:
        InputError: an argument or an entry of the config_list is wrong.
    """

    _modes = ("normal",)

    def __init__(
        self, model: nn.Module, config_list: list[dict[str, Any]], evaluator: Evaluator, iterations: int,
        training_epochs: int, granularity: str = "fine-grained",
    ) -> None:  # fmt: skip
        if granularity not in ("fine-grained", "coarse-grained"):
            raise InputError(f"granularity is {granularity!r}; it is 'fine-grained' or 'coarse-grained'")
        self._default = "element" if granularity == "fine-grained" else "output"
        self._iterations = count("ADMMPruner", "iterations", iterations)
        epochs = count("ADMMPruner", "training_epochs", training_epochs)
        super().__init__(model, config_list, evaluator, "normal", None, training_epochs=epochs)

    def _train(self, scoring: Scoring) -> None:  # noqa: ARG002 - its scores come last
        evaluator = self._require_evaluator()
        by_rho: dict[float, list[Rule]] = {}
        for rule in self._masking.rules:
            by_rho.setdefault(rule.rho, []).append(rule)
        terms = [
            Multipliers(
                self.bound_model,
                [rule.name for rule in rules],
                ADMM(rho=rho, every=1),
                lambda values, rules=rules: self._projected(rules, values),  # type: ignore[misc]
            )
            for rho, rules in by_rho.items()
        ]
        with evaluator.watched(lambda: sum(term.penalty() for term in terms)):
            for _ in range(self._iterations):
                evaluator.train(self._steps, self._epochs)
                for term in terms:
                    term.step()

    def _projected(self, rules: list[Rule], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``values`` with zeros where the rules would mask them."""
        blocks = self._masking.blocks
        scores = {name: criteria.l1(self._masking.matrix(name, value)) for name, value in values.items()}
        gone = allocate(rules, scores, self._masking.elements)
        return {
            name: value.masked_fill(blocks[name].removed(gone[name], {})[name].to(value.device), 0)
            for name, value in values.items()
        }
