"""Write the golden losses anew: python -m tests.golden.renew (make golden). Review the difference.

With --pairs the stored pairs are drawn anew first.
"""

import importlib.util
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from medq_uni.data.pair_cache import build_pair_cache
from medq_uni.data.pairs import PairsConfig

HERE = Path(__file__).parent


def store(name: str, pairs: PairsConfig) -> None:
    """Draw a pool and keep what of it is no repeated edge."""
    (HERE / name).mkdir(exist_ok=True)
    side = max(pairs.phantom_sizes)
    with tempfile.TemporaryDirectory() as folder:
        pool = build_pair_cache(pairs, Path(folder))
        np.savez_compressed(HERE / name / "pairs.npz", pixels=pool.arrays[..., :side, :side])
        shutil.copy(Path(folder) / "pairs.jsonl", HERE / name)


def main() -> None:
    spec = importlib.util.spec_from_file_location("test_loop", HERE.parent / "train" / "test_loop.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.set_num_threads(1)
    if "--pairs" in sys.argv:
        recipe = module.golden_recipe()
        store("train_pairs", recipe.pairs)
        store("val_pairs", recipe.val_pairs)
    with tempfile.TemporaryDirectory() as folder:
        lines = module.golden_lines(Path(folder))
    (HERE / "losses_tiny.json").write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
