"""Write the golden losses anew: python -m tests.golden.renew (make golden). Review the difference."""

import importlib.util
import json
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).parent


def main() -> None:
    spec = importlib.util.spec_from_file_location("test_loop", HERE.parent / "train" / "test_loop.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        lines = module.golden_lines(Path(folder))
    (HERE / "losses_tiny.json").write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
