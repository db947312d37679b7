"""The recipe: what it refuses, and what it makes of its settings."""

from dataclasses import replace
from typing import Any

import pytest

from emtnet.network import ARCHITECTURES
from emtnet.recipe import Recipe, default_recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "unet"}, "network is one of emtnet, emtnet-s"),
        ({"tasks": "all"}, "tasks one of both, class, mask"),
        ({"epochs": 0}, "at least one epoch"),
        ({"batch_size": 1}, "two images a batch"),
        ({"normal_repeats": 0}, "one turn for a normal case"),
        ({"small_size": 100}, "multiple of 32"),
        ({"small_size": 0}, "multiple of 32"),
        ({"small_size": 256}, "multiple of 32"),
        ({"small_share": 1.1}, "small_share a share"),
        ({"clear_share": -0.1}, "are shares"),
        ({"distillation": 1.1}, "are shares"),
        ({"balance": 1.0}, "balance"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"class_weight": -1.0}, "not negative"),
        ({"presence_weight": -1.0}, "not negative"),
        ({"gate_weight": -1.0}, "not negative"),
    ],
)
def test_a_recipe_is_checked_when_it_is_made(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**change)


@pytest.mark.parametrize(
    ("change", "weights"),
    [
        ({}, (1.0, 1.0, 0.3, 0.3)),
        ({"guided": False}, (1.0, 1.0, 0.3, 0.0)),
        ({"tasks": "class"}, (1.0, 0.0, 0.0, 0.0)),
        ({"tasks": "mask", "class_weight": 2.0}, (0.0, 1.0, 0.3, 0.3)),
        ({"class_weight": 2.0, "presence_weight": 0.1, "gate_weight": 0.5}, (2.0, 1.0, 0.1, 0.5)),
    ],
)
def test_the_loss_weighs_the_tasks_that_are_learned(
    change: dict[str, Any], weights: tuple[float, float, float, float]
) -> None:
    loss = Recipe(**change, balance=0.6, label_smoothing=0.2).loss()
    assert (loss.class_weight, loss.mask_weight, loss.presence_weight, loss.gate_weight) == weights
    assert (loss.balance, loss.label_smoothing) == (0.6, 0.2)


def test_the_first_epochs_are_small() -> None:
    recipe = Recipe(epochs=10, small_size=96, small_share=0.6)
    assert [recipe.size(epoch) for epoch in range(10)] == [96] * 6 + [224] * 4
    assert {replace(recipe, small_share=0.0).size(epoch) for epoch in range(10)} == {224}
    assert {replace(recipe, small_share=1.0).size(epoch) for epoch in range(10)} == {96}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_has_its_recipe(name: str) -> None:
    assert default_recipe(name).network == name
