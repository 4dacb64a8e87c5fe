"""`python -m causal_prune` does what the command `causal-prune` does."""

from causal_prune.command_line import entry_point

if __name__ == "__main__":
    entry_point()
