"""How small may it get? A script in cells, for editors that know `# %%`, or to be run as it is.

python examples/frontier.py
"""

# %%
import torch
from torch.utils.data import DataLoader

import causal_prune as cp
from causal_prune.sources import load_data, small_resnet

torch.manual_seed(0)
data = load_data("digits")
train = DataLoader(data.train, batch_size=64, shuffle=True)
dense = cp.fine_tune(small_resnet(width=16), train, epochs=10, lr=0.1)

# %% The sizes side by side; in a notebook the last line of a cell shows the table.
found = cp.frontier(dense, data, keep=(0.5, 0.25, 0.1), max_drop=0.05, arms=("causal", "magnitude"))
print(found)

# %% Take the smallest that is within the loss that you allow, and look at what that cost.
if found.taken is not None:
    keep = found.sizes[found.taken].keep
    result = cp.compress(dense, data, keep_macs=keep, evidence="none")
    print(result)
