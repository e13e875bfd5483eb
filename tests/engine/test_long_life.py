"""Many epochs in one process: memory and open files stay as they are, the log grows by the same with every epoch.

LONG_LIFE=2000 python -m pytest tests/engine/test_long_life.py tries that many; CI has fewer.
"""

import json
import os
from pathlib import Path

import pytest
from helpers.runs import make_demo, train

from utils.runs.history import History

EPOCHS = int(os.environ.get("LONG_LIFE", 120))


def resident() -> int:
    """kB of memory that this process holds."""
    return int(next(line for line in Path("/proc/self/status").open() if line.startswith("VmRSS")).split()[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only /proc says what a process holds")
def test_memory_and_open_files_stay_flat_and_the_log_is_linear_and_always_readable(tmp_path, monkeypatch):
    demo = make_demo(tmp_path / "demo")
    memory, files, sizes = [], [], []
    append = History.append

    def watched(self, epoch, *more):
        append(self, epoch, *more)
        metrics = self.folder.path / "metrics.jsonl"
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
        assert [found["epoch"] for found in rows] == list(range(epoch.epoch + 1))
        memory.append(resident())
        files.append(len(os.listdir("/proc/self/fd")))
        sizes.append(metrics.stat().st_size)

    monkeypatch.setattr(History, "append", watched)
    train(demo, tmp_path, "--method", "inforeg", "--epochs", str(EPOCHS), "--cache", "ram", "--lr_step", str(EPOCHS))
    warm = EPOCHS // 4  # by then everything has been allocated once
    print(f"{EPOCHS} epochs: {memory[warm]} kB after a quarter, {memory[-1]} kB at the end, {files[-1]} files open")
    assert max(memory[warm:]) <= 1.02 * memory[warm]
    assert len(set(files[warm:])) == 1
    rows = [after - before for before, after in zip(sizes[warm:], sizes[warm + 1 :], strict=False)]
    assert max(rows) <= 1.2 * min(rows)
