"""What a method may read, and what it gets where nothing was said."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import nn

from causal_prune.data.classification import CLASSIFICATION
from causal_prune.importance.evidence import Evidence
from tests.unit.importance.conftest import Traced


def test_what_is_not_given_has_its_standard(traced: Traced) -> None:
    evidence = Evidence(traced.graph, traced.moments)
    assert (evidence.parents, evidence.seed, evidence.task) == ("graph", 0, CLASSIFICATION)
    assert evidence.model is None and evidence.labelled is None


def test_network_and_images_are_those_that_were_given(traced: Traced) -> None:
    net, batches = nn.Identity(), [(torch.zeros(1), torch.zeros(1))]
    evidence = Evidence(traced.graph, traced.moments, model=net, labelled=batches)
    assert evidence.network is net and evidence.images is batches


def test_a_method_that_the_table_says_needs_nothing_gets_nothing(traced: Traced) -> None:
    evidence = Evidence(traced.graph, traced.moments)
    with pytest.raises(AssertionError, match="^METHODS says who needs it, and score refuses before(\n|$)"):
        _ = evidence.network
    with pytest.raises(AssertionError, match="^METHODS says who needs them, and score refuses before(\n|$)"):
        _ = evidence.images


def test_it_cannot_be_changed(traced: Traced) -> None:
    evidence = Evidence(traced.graph, traced.moments)
    with pytest.raises(FrozenInstanceError, match="^cannot assign to field 'seed'$"):
        evidence.seed = 1  # type: ignore[misc]  # that it cannot be set is the point
