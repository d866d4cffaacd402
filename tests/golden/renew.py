"""Write the golden losses anew: python -m tests.golden.renew (make golden). Review the difference.

With --pairs the stored pairs are drawn anew first.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from medq_uni.data.pair_cache import build_pair_cache
from medq_uni.data.pairs import PairsConfig
from tests.train.tiny import TRAIN_PAIRS, VAL_PAIRS, golden_lines, make_quick

HERE = Path(__file__).parent


def store(name: str, pairs: PairsConfig) -> None:
    """Draw pairs and keep what of it is no repeated edge."""
    (HERE / name).mkdir(exist_ok=True)
    side = max(pairs.phantom_sizes)
    with tempfile.TemporaryDirectory() as folder:
        cache = build_pair_cache(pairs, Path(folder))
        np.savez_compressed(HERE / name / "pairs.npz", pixels=cache.arrays[..., :side, :side])
        shutil.copy(Path(folder) / "pairs.jsonl", HERE / name)


def main() -> None:
    torch.set_num_threads(1)
    if "--pairs" in sys.argv:
        store("train_pairs", TRAIN_PAIRS)
        store("val_pairs", VAL_PAIRS)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        lines = golden_lines(Path(folder))
    (HERE / "losses_tiny.json").write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
