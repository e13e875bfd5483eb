"""What the system and the libraries refuse is said in one sentence that names the remedy."""

import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from utils.errors import RunError, one_sentence, refusals


@pytest.mark.parametrize(
    "error, words",
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
            ["GPU", "(2.00 GiB more"],
        ),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), ["GPU is out of memory: lower"]),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), ["GPU is out of memory: lower"]),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), ["GPU is out"]),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes."),
            ["machine", "12 b"],
        ),
        (MemoryError(), ["this machine is out of memory: lower --batch_size"]),
    ],
)
def test_out_of_memory(error, words):
    with pytest.raises(RunError) as caught, refusals():
        raise error
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize("ask", [lambda: torch.empty(2**59), lambda: np.empty(2**59)])
def test_out_of_memory_in_truth(ask):
    with pytest.raises(RunError, match="this machine is out of memory .* more were asked for.: lower --batch_size"):
        with refusals():
            ask()


def test_other_errors_are_let_through():
    with pytest.raises(RuntimeError, match="another"), refusals():
        raise RuntimeError("another")


def test_a_script_does_not_run_the_code_of_another_checkout(monkeypatch, tmp_path, capsys):
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "errors.py").touch()
    monkeypatch.setattr("sys.argv", [str(tmp_path / "scripts" / "sweep.py")])
    with pytest.raises(SystemExit), one_sentence():
        pytest.fail("it went on")
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}/scripts/sweep.py would run") and f"PYTHONPATH={tmp_path}," in said


def test_output_that_nobody_reads_ends_a_program_without_a_traceback():
    program = "from utils.errors import one_sentence\nwith one_sentence():\n    print('x' * 10**6)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_a_pipe_that_breaks_elsewhere_is_an_error():
    with pytest.raises(BrokenPipeError), one_sentence():
        raise BrokenPipeError
