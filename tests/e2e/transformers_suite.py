"""transformers' own common model tests, from its source distribution, on our model.

Imports `hf_tests`, so it is no test of this repository by itself: `test_transformers_suite.py` puts
both into one folder and runs them there.
"""

import unittest
from typing import Any

import torch
from hf_tests.test_modeling_common import ModelTesterMixin, ids_tensor

from pretrain.huggingface.backbone.resonance_model import ResonanceModel
from pretrain.huggingface.configuration_resonance import ResonanceConfig
from pretrain.huggingface.modeling_resonance import ResonanceForCausalLM
from spectral.config import ModelConfig

OWN_CHECKPOINTING = (
    "layers are plain modules that know no transformers: the backbone recomputes its blocks itself "
    "(test_gradient_checkpointing_gives_the_same_gradients)"
)


class Tester:
    """What the common tests ask of a model's own tester."""

    is_training = True
    batch_size, seq_length, hidden_size, num_hidden_layers = 3, 12, 32, 2

    def get_config(self) -> ResonanceConfig:
        """A tiny model."""
        config = ModelConfig(
            vocab_size=99,
            dim=32,
            num_layers=2,
            num_heads=4,
            num_modes=4,
            conv_chunk=8,
            recall_chunk=8,
            ffn_dim=48,
        )
        tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        return ResonanceConfig(**config.model_dump(), **tokens)

    def prepare_config_and_inputs_for_common(self) -> tuple[ResonanceConfig, dict[str, Any]]:
        """It and a batch."""
        mask = torch.ones(3, 12, dtype=torch.long)
        return self.get_config(), {"input_ids": ids_tensor([3, 12], 99), "attention_mask": mask}


class ResonanceModelTest(ModelTesterMixin, unittest.TestCase):
    """The common tests."""

    all_model_classes = (ResonanceModel, ResonanceForCausalLM)
    all_generative_model_classes = ()
    has_attentions = False

    def setUp(self) -> None:
        self.model_tester = Tester()

    def _prepare_for_class(
        self, inputs_dict: dict[str, Any], model_class: type, return_labels: bool = False
    ) -> dict[str, Any]:
        # transformers knows by class name which of its own models take labels
        inputs: dict[str, Any] = super()._prepare_for_class(inputs_dict, model_class)
        if return_labels and model_class is ResonanceForCausalLM:
            inputs["labels"] = inputs["input_ids"].clone()
        return inputs

    def test_training(self) -> None:
        """Of the class that has a loss; transformers recognises its own base models by name."""
        self.all_model_classes = (ResonanceForCausalLM,)
        super().test_training()

    @unittest.skip(OWN_CHECKPOINTING)
    def test_gradient_checkpointing_enable_disable(self) -> None:
        """Looks for transformers' GradientCheckpointingLayer."""

    @unittest.skip(OWN_CHECKPOINTING)
    def test_training_gradient_checkpointing(self) -> None:
        """Likewise."""

    @unittest.skip(OWN_CHECKPOINTING)
    def test_training_gradient_checkpointing_use_reentrant_false(self) -> None:
        """Likewise."""

    @unittest.skip(OWN_CHECKPOINTING)
    def test_training_gradient_checkpointing_use_reentrant_true(self) -> None:
        """Likewise."""
