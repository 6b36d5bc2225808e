"""The table at the end of a sweep: what each job did."""

from __future__ import annotations

import json
from pathlib import Path


def sweep_table(folder: str) -> str:
    """Return a line per job of a sweep folder: state, first metric, overrides, reason."""
    jobs = sorted((path for path in Path(folder).glob("*") if path.is_dir()), key=_number)
    lines = [f"sweep {folder}:"]
    lines += [f"  {path.name:>4}  {_state(path)}" for path in jobs if not path.name.startswith(".")]
    return "\n".join(lines)


def _number(path: Path) -> tuple[int, str]:
    return (int(path.name) if path.name.isdigit() else 10**9, path.name)


def _state(job: Path) -> str:
    status = _read(job / "status.json")
    state = str(status.get("state", "not run"))
    text = f"{state:<12}{_first_metric(_read(job / 'metrics.json')):<28}{_overrides(job)}"
    reason = str(status.get("reason", ""))
    return f"{text}  {reason}".rstrip()


def _first_metric(metrics: dict[str, object]) -> str:
    """Return `bits_per_byte 2.1` of the last stage where there is one, else its first metric."""
    for evaluators in reversed(list(metrics.values())):
        found = {
            name: values["value"]
            for evaluator in (evaluators if isinstance(evaluators, dict) else {}).values()
            for name, values in evaluator.items()
        }
        for name in ("bits_per_byte", *found):
            if name in found:
                return f"{name} {found[name]:.4g}"
    return ""


def _overrides(job: Path) -> str:
    file = job / ".hydra" / "overrides.yaml"
    if not file.exists():
        return ""
    return " ".join(line.removeprefix("- ") for line in file.read_text().splitlines())


def _read(file: Path) -> dict[str, object]:
    content = json.loads(file.read_text()) if file.exists() else {}
    return content if isinstance(content, dict) else {}
