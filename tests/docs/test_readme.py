"""What the README shows in Python runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_the_code_runs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("optuna")
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    (tmp_path / "readme.py").write_text("\n".join(blocks), encoding="utf-8")
    run = subprocess.run([sys.executable, "readme.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    (accuracy,) = re.findall(r"^\d\.\d+ (\d\.\d+)$", run.stdout, re.MULTILINE)
    assert float(accuracy) > 0.97
    assert "gradients agree" in run.stdout
    assert {path.name for path in tmp_path.iterdir()} >= {"digits.safetensors", "digits-run", "flow.png", "search.db"}
