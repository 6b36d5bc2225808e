"""What libraries read when they are first imported, and so must be told before."""

from __future__ import annotations

import os

ENVIRONMENT = {
    # Threads that wait actively take the processor from whatever else runs on it.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "true",
}


def prepare_environment() -> None:
    """Set what the user has not set; what is imported already does not read it any more."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
