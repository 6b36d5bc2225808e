"""Contract checks for plugins: call them from your tests, as the built-in plugins do.

    from ontogeny.testing import check_plugin

    def test_the_plugin_keeps_its_contracts() -> None:
        check_plugin("focal")

Each check raises `ContractError`, an AssertionError, for the first promise that is broken.
"""

from ontogeny.testing.adapter import check_adapter
from ontogeny.testing.contract import ContractError
from ontogeny.testing.evaluator import check_evaluator
from ontogeny.testing.exporter import check_exporter
from ontogeny.testing.head import check_head
from ontogeny.testing.objective import check_objective
from ontogeny.testing.plugin import check_plugin
from ontogeny.testing.resume import CrashAt
from ontogeny.testing.reward import check_reward
from ontogeny.testing.rows import sample_rows
from ontogeny.testing.tokenizer import byte_tokenizer
from ontogeny.testing.trial import Trial, trial

__all__ = [
    "ContractError",
    "CrashAt",
    "Trial",
    "byte_tokenizer",
    "check_adapter",
    "check_evaluator",
    "check_exporter",
    "check_head",
    "check_objective",
    "check_plugin",
    "check_reward",
    "sample_rows",
    "trial",
]
