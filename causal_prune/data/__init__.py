"""The images of a run and what they are for: splits, loaders, and the task whose labels and losses all else reads."""
