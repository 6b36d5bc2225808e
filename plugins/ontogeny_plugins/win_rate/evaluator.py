"""Answers of two models to the same prompts, compared in both orders."""
# N prompts

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch

from ontogeny.evaluated_rows import EvaluatedRows, rows_to_evaluate
from ontogeny.evaluator import EvaluationData, Evaluator, Metrics
from ontogeny.generation import Decoding, require_generation, require_room, write
from ontogeny.intervals import bootstrap_metric, mean_metric
from ontogeny.prompts import prompts_of
from ontogeny.reward import Completion, Rewards
from ontogeny_plugins.win_rate.judge import Judge, RewardJudge, ServerJudge
from ontogeny_plugins.win_rate.length_control import length_controlled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ontogeny.adapter import Bundle
    from ontogeny.companions import Companions
    from ontogeny.objective import Row
    from ontogeny_plugins.win_rate import WinRate

KEY = "evaluator.win_rate"


class WinRateEvaluator(Evaluator):
    """Wins against another checkpoint, and what they would be at equal lengths."""

    columns: ClassVar[Sequence[Sequence[str]]] = (("prompt",), ("messages",))

    def __init__(self, config: WinRate) -> None:
        self.config = config

    def begin(self, companions: Companions) -> None:
        """Take the other checkpoint, and the judge."""
        self.other = companions.checkpoint(f"{KEY}.against", self.config.against)
        self.judge: Judge
        if self.config.judge == "server":
            self.judge = ServerJudge(self.config)
            return
        rewards = Rewards(companions.config.reward, companions.registry)
        rewards.begin(companions)
        self.judge = RewardJudge(rewards)

    def check(self, bundle: Bundle, data: EvaluationData) -> None:
        """Raise for prompts that cannot be read, and for a model that cannot write."""
        require_generation(bundle.model, KEY)
        prompts = prompts_of(bundle, self._rows(data).rows, self.config.template)
        tokens = [prompt.tokens for prompt in prompts]
        require_room(bundle.model, tokens, self.config.max_tokens, f"{KEY}.max_tokens")

    def evaluate(self, bundle: Bundle, data: EvaluationData) -> Metrics:
        """Return metrics of all prompts, and of each source where there are several."""
        rows, resamples = self._rows(data), self.config.resamples
        ours = self._answers(bundle, bundle, rows.rows)
        theirs = self._answers(self.other.load(), bundle, rows.rows)
        with torch.no_grad():
            wins_N2 = self.judge.wins(ours, theirs)
        wins_N = wins_N2.mean(1)
        pairs = zip(ours, theirs, strict=True)
        longer_N = np.array([len(one.text) - len(other.text) for one, other in pairs], float)

        def measure(drawn_N: np.ndarray) -> Metrics:
            def controlled(again: np.ndarray) -> float:
                return length_controlled(wins_N[drawn_N][again], longer_N[drawn_N][again])

            count = len(drawn_N)
            found = {
                "win_rate": mean_metric(wins_N[drawn_N], "1", resamples),
                "length_controlled_win_rate": bootstrap_metric(controlled, count, "1", resamples),
                "ties": mean_metric((wins_N[drawn_N] == 0.5).astype(float), "1", resamples),
                "longer_by": mean_metric(longer_N[drawn_N], "characters", resamples),
            }
            if self.config.judge == "server":
                agree_N = (wins_N2[drawn_N, 0] == wins_N2[drawn_N, 1]).astype(float)
                found["orders_agree"] = mean_metric(agree_N, "1", resamples)
            return found

        return rows.metrics(measure)

    def _answers(self, writer: Bundle, judged: Bundle, rows: Sequence[Row]) -> list[Completion]:
        """Return a model's answers, in the tokens of the model that is measured."""
        options = self.config
        prompts = prompts_of(writer, rows, options.template)
        read = prompts_of(judged, rows, options.template)
        decoding = Decoding(options.max_tokens, options.batch_size, options.temperature)
        written = write(writer, [prompt.tokens for prompt in prompts], decoding)
        same = writer.tokenizer.get_vocab() == judged.tokenizer.get_vocab()
        return [
            Completion(
                _with_prompt(row),
                prompt.tokens,
                answer.text,
                answer.tokens if same else _tokens(judged, answer.text),
                answer.ended,
            )
            for row, prompt, answer in zip(rows, read, written, strict=True)
        ]

    def _rows(self, data: EvaluationData) -> EvaluatedRows:
        return rows_to_evaluate(data, self.config.path, self.columns, self.config.limit, KEY)


def _with_prompt(row: Row) -> Row:
    """Return a row whose prompt is what stands before the last answer of its messages."""
    if "prompt" in row:
        return row
    turns = list(cast("Sequence[dict[str, object]]", row["messages"]))
    kept = turns[:-1] if turns[-1].get("role") == "assistant" else turns
    return {**row, "prompt": kept}


def _tokens(bundle: Bundle, text: str) -> list[int]:
    found = bundle.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return cast("list[int]", found)
