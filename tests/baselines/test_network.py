import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.baselines.network import Baseline, BaselineConfig, restore_image, restore_views
from medq_uni.image import MedicalImage
from medq_uni.scaling import Scaling
from medq_uni.taxonomy import Modality

SCALING = Scaling(0.0, 100.0, 0.0, 50.0)


class Picky(Baseline):
    """Adds 0.5, and takes only sides that are multiples; a stand-in whose restoration is known."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.added = torch.nn.Parameter(torch.tensor(0.5))
        self.seen: list[torch.Tensor] = []

    def forward(self, degraded: torch.Tensor) -> torch.Tensor:
        assert degraded.shape[-1] % self.config.multiple == degraded.shape[-2] % self.config.multiple == 0
        self.seen.append(degraded)
        return degraded + self.added


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), levels=st.integers(2, 6))
def test_any_size_is_padded_by_its_edge_and_cut_back(height: int, width: int, levels: int) -> None:
    baseline = Picky(BaselineConfig(kind="nafnet", blocks=(1,) * levels))
    views = torch.rand(1, 2, height, width)
    assert torch.equal(restore_views(baseline, views, SCALING), views + 0.5)
    (seen,) = baseline.seen
    assert torch.equal(seen[..., -1, -1], views[..., -1, -1])
    assert max(seen.shape[-2] - height, seen.shape[-1] - width) < baseline.config.multiple


def test_a_baseline_of_one_channel_gives_both_views_back() -> None:
    values = torch.full((1, 8, 8), 20.0)
    baseline = Picky(BaselineConfig(kind="nafnet", in_channels=1))
    restored = restore_views(baseline, SCALING.to_views(values), SCALING)
    assert baseline.seen[0].shape[1] == 1
    torch.testing.assert_close(restored, SCALING.to_views(values + 25.0))  # 0.5 of 2 is a quarter of the range


def test_an_image_comes_back_in_its_units_and_size_and_what_lies_outside_the_range_as_it_was() -> None:
    baseline = Picky(BaselineConfig(kind="nafnet"))
    values = torch.full((2, 30, 21), 10.0)
    values[0, 0, 0] = 300.0
    restored = restore_image(baseline, MedicalImage(values.numpy(), modality=Modality.MR), scaling=SCALING)
    assert restored.shape == (2, 30, 21)
    assert restored.voxels[0, 0, 0] == 300.0
    torch.testing.assert_close(torch.from_numpy(restored.voxels[1]), torch.full((30, 21), 22.5))
