"""`vllm serve` on loopback, for as long as a `with` block lasts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S = 1200.0
"""How long to wait: a minute of imports, and many more where other work takes the cores."""


def cpu_environment() -> dict[str, str]:
    """Environment for vLLM on a CPU that other programs use too; harmless on a GPU."""
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }
    return {**settings, **os.environ}


@contextmanager
def vllm_serve(
    model: Path, *, name: str, log: Path, dtype: str = "float32", flags: Sequence[str] = ()
) -> Iterator[str]:
    """Serve a checkpoint under a name; gives the base URL, and ends the server afterwards.

    Args:
        model: folder of the checkpoint.
        name: what requests call it.
        log: file for what the server says.
        dtype: precision.
        flags: further ones of `vllm serve`.

    Raises:
        RuntimeError: the server did not come up; the end of its log is in the message.
    """
    port = _free_port()
    # What `vllm serve` runs. The command itself fails in vllm-cpu, whose package has another name.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", name]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", dtype, "--enforce-eager"]
    command += flags
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=cpu_environment(),
            start_new_session=True,
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(1)
    raise RuntimeError(f"vllm serve did not come up: {log.read_text(errors='replace')[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server by its id; what is left of its own session after that as well."""
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
