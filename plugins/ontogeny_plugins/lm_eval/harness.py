"""The harness's own model class, with one difference: a text begins once."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from lm_eval.models.huggingface import HFLM

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


class HarnessModel(HFLM):  # type: ignore[misc]  # the package has no types
    """A model that is in memory."""

    add_bos_token: bool | None  # whether the tokenizer sets bos; none: as it is saved

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Score whole texts, each behind one bos token.

        The harness puts it there. A tokenizer that sets one by itself, as those of Llama and Gemma
        do, would put a second one, which would be scored too.
        """
        before, self.add_bos_token = self.add_bos_token, False
        try:
            return cast("list[float]", super().loglikelihood_rolling(requests, disable_tqdm))
        finally:
            self.add_bos_token = before
