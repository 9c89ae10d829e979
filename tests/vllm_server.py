"""A real vLLM server on this machine, for the tests that need one; `make server` installs it."""

import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

_OURS = Path(__file__).parents[1] / ".server" / "bin" / "python"
VARIABLE = "VISUALPRM_SERVER_PYTHON"
NO_SERVER = f"no vLLM is installed; run `make server`, or set {VARIABLE} to the Python of an environment that has it"
MODEL = "tiny"
START_TIMEOUT = 1800.0
"""Seconds; an idle machine takes 50, one with a load of 20 took 900."""
_OPTIONS = (
    "--dtype float32 --max-model-len 1024 --max-num-seqs 64 --enforce-eager --block-size 32 --max-logprobs 64 "
    # A prompt that is read in pieces, with a seed, ends the server on a CPU.
    "--no-enable-chunked-prefill --max-num-batched-tokens 4096 --trust-request-mm-kwargs"
).split()


def server_python() -> Path | None:
    """The Python that has vLLM; None if there is none."""
    given = os.environ.get(VARIABLE)
    path = Path(given) if given else _OURS
    return path if path.is_file() else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class VllmServer:
    """A server of a checkpoint; its model is called "tiny".

    Args:
        folder: Of the checkpoint.
        log: Where it writes what it says.
        options: More of its command line.

    Attributes:
        url: Base address.
    """

    def __init__(self, folder: Path, log: Path, *options: str) -> None:
        self.folder, self.log, self.options = folder, log, options
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: If it does not.
        """
        python = server_python()
        assert python is not None, NO_SERVER
        # It must not outlive the tests. The signal comes when the thread that has started it ends, so not from others.
        is_main = threading.current_thread() is threading.main_thread()
        command = ["setpriv", "--pdeathsig", "TERM"] if is_main else []
        command += [str(python), "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(self.folder), "--served-model-name", MODEL, "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--limit-mm-per-prompt", '{"image":4}', *_OPTIONS, *self.options]
        of_ours = ("PYTHONPATH", "PL_GLOBAL_SEED")
        environment = {name: value for name, value in os.environ.items() if name not in of_ours}
        # It would bind its worker to one core, whatever else runs there.
        environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_healthy():
            # It may never answer, so the process is looked at as well.
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"vLLM did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.5)

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        """End it and its processes."""
        if self._process is None:
            return
        try:
            self._process.terminate()
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            pass
        finally:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # all of them have ended
            self._process.wait()
            self._process = None


@contextmanager
def vllm_server(folder: Path, log: Path, *options: str) -> Iterator[VllmServer]:
    """A running server of a checkpoint. One at a time on this machine: each takes 4 GB."""
    with FileLock(Path(tempfile.gettempdir()) / "visualprm_vllm.lock"):
        server = VllmServer(folder, log, *options)
        try:
            server.start()
            yield server
        finally:
            server.stop()
