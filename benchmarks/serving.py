"""vLLM's own server as a process of ours, on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

FLAGS = (
    "--dtype float32 --max-num-seqs 32 --block-size 32 --kv-cache-memory-bytes 67108864 --generation-config vllm "
    "--enforce-eager --no-enable-chunked-prefill --disable-log-stats --host 127.0.0.1 --enable-lora --max-lora-rank 8 "
    "--max-loras 2 --max-cpu-loras 8 --enable-prompt-tokens-details"
)
ENV = {
    "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
}  # fmt: skip


class Process:
    """One server of the model in a folder, by vLLM's CPU build unless `flags` say otherwise."""

    def __init__(self, model: str, log: Path, flags: str = FLAGS) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{port}/v1", log
        words = ["-m", "vllm.entrypoints.openai.api_server", "--model", model, "--port", str(port), *flags.split()]
        with log.open("ab") as file:
            own: Any = {"env": os.environ | ENV, "stdout": file, "stderr": file, "start_new_session": True}
            self.process = subprocess.Popen([sys.executable, *words], **own)

    def wait(self) -> None:
        """Until it answers; RuntimeError where it ends instead."""
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/models", timeout=5).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError(self.log.read_text()[-3000:]) from None
                time.sleep(0.2)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
