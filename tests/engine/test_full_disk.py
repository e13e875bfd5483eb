"""Training on a file system that is really full: a small tmpfs, in a mount namespace of the test's own."""

import json

import pytest
from helpers.namespaces import allowed
from helpers.runs import make_demo

pytestmark = pytest.mark.skipif(not allowed, reason="this kernel lets no user mount a tmpfs in a namespace")

# A run on a disk with `left` kB free, for one amount after the other; then again with room for it.
PROGRAM = """
import json, shutil
from pathlib import Path
from helpers.namespaces import enter, mount
from helpers.runs import checkpoint, train
from utils.errors import RunError

demo, disk, found = Path({demo!r}), Path({disk!r}), dict()
enter()
mount(disk, megabytes=8)
argv = ["--method", "inforeg", "--epochs", "3", "--modulate_during", "all", "--resume"]
reference = train(demo, disk / "reference", *argv)
content = {{name: (reference / name).read_bytes() for name in ("metrics.jsonl", "result.json")}}
for left in {left!r}:
    out, filler = disk / f"left{{left}}", disk / "filler"
    free = shutil.disk_usage(disk).free
    filler.write_bytes(bytes(free - 1024 * left))
    said = ""
    try:
        folder = train(demo, out, *argv)
    except RunError as error:
        said = str(error)
    epochs = len(list(out.rglob("last.pt"))) and checkpoint(next(out.rglob("last.pt")).parent)["epoch"] + 1
    filler.unlink()
    folder = train(demo, out, *argv)
    same = all((folder / name).read_bytes() == content[name] for name in content)
    found[left] = dict(said=said, epochs=epochs, same=same)
print(json.dumps(found))
"""


def test_a_full_disk_stops_with_one_sentence_and_loses_no_checkpoint(forked, tmp_path):
    demo, disk = make_demo(tmp_path / "demo"), tmp_path / "disk"
    disk.mkdir()
    left = [0, 8, 24, 40, 64, 140, 2000]
    done = forked.run(PROGRAM.format(demo=str(demo), disk=str(disk), left=left))
    assert done.returncode == 0, done.stderr[-2000:]
    found = {int(kilobytes): result for kilobytes, result in json.loads(done.stdout.splitlines()[-1]).items()}
    assert all(result["same"] for result in found.values())
    assert found[2000]["said"] == "" and found[2000]["epochs"] == 3
    for kilobytes in left[:-1]:
        said = found[kilobytes]["said"]
        assert not said or ("No space left on device" in said or "MB free on its disk" in said) and "\n" not in said
    assert found[0]["said"] and found[8]["said"]
    assert {1, 2} & {result["epochs"] for result in found.values()}  # one at least was broken off between epochs
