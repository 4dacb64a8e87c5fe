"""What a caller may say about who finds what goes together."""

from typing import Literal

Dependencies = Literal["labels", "torch-pruning"]
"""Who finds what must go together: our own labels, or torch-pruning's dependency graph."""
