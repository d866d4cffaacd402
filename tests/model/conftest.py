from collections.abc import Callable

import pytest
import torch

from medq_uni.config import FluxCodecConfig, ModelConfig, SharingConfig, SpecialTokens, TransformerConfig, VisionConfig
from medq_uni.model.medq import MedQ


def make_config(sharing: SharingConfig | None = None) -> ModelConfig:
    return ModelConfig(
        name="tiny",
        transformer=TransformerConfig(
            vocab_size=40,
            hidden_size=32,
            intermediate_size=48,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            rope_theta=10000.0,
            sharing=sharing or SharingConfig(),
        ),
        vision=VisionConfig(
            in_channels=1,
            patch_size=4,
            hidden_size=24,
            intermediate_size=32,
            num_layers=1,
            num_heads=2,
            max_patches_per_side=8,
        ),
        codec=FluxCodecConfig(
            in_channels=1,
            channels=4,
            channel_multipliers=(1, 2),
            num_res_blocks=1,
            latent_channels=3,
            norm_groups=2,
        ),
        tokens=SpecialTokens(bos=36, eos=37, start_of_image=38, end_of_image=39),
        max_latent_size=8,
    )


def make_model(config: ModelConfig, seed: int = 0) -> MedQ:
    """Random weights everywhere: fresh weights are too tame, llm2vae is zero and the experts equal."""
    model = MedQ(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def model() -> MedQ:
    return make_model(make_config())


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., ModelConfig]:
    return make_config


@pytest.fixture(scope="session")
def scrambled() -> Callable[..., MedQ]:
    return make_model
