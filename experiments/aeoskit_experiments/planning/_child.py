"""A plan made in a process of its own, whose environment is set before jax is imported.

It reads a request from stdin and writes JSON lines to stdout: progress, then a plan or an error.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from aeoskit_experiments._errors import UserError

# Without these libtpu looks for the chips of this machine, and waits for a metadata server.
TPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    # Two plans at a time are two processes with the library loaded.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def cpu_environment(devices: int) -> dict[str, str]:
    """So many of the CPU's devices, and no other backend."""
    return {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}


def ask_child(
    task: str,
    request: Any,
    environment: Mapping[str, str],
    progress: Callable[[str], None] | None = None,
) -> Any:
    """Have a task done in a child process.

    Args:
        task: `plan` or `layout`.
        request: The task's argument, which msgspec can write.
        environment: What is set before jax is imported.
        progress: Is told what the child tells.

    Returns:
        The task's result as plain data.

    Raises:
        UserError: What the task refused, or that the process ended without an answer.
    """
    command = [sys.executable, "-m", __name__, task]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with tempfile.TemporaryFile() as noise:
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            env={**os.environ, **environment, "PYTHONPATH": path},
        ) as child:
            try:
                answer, code = _answer(child, msgspec.json.encode(request), progress)
            except BaseException:
                child.kill()
                raise
        if "error" in answer:
            raise UserError(answer["error"])
        if "result" not in answer:
            noise.seek(0)
            last = noise.read().decode(errors="replace").strip().splitlines()[-1:]
            why = " (killed: was there enough memory?)" if code == -9 else ""
            said = " ".join(last)[:300]
            raise UserError(f"{task}: the compiler's process ended with code {code}{why}: {said}")
        return answer["result"]


def _answer(
    child: subprocess.Popen[bytes], asked: bytes, progress: Callable[[str], None] | None
) -> tuple[dict[str, Any], int]:
    """The last line that the child says, and its exit code."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(asked)
    child.stdin.close()
    answer: dict[str, Any] = {}
    for line in child.stdout:
        answer = json.loads(line)
        if progress is not None and "progress" in answer:
            progress(answer["progress"])
    return answer, child.wait()


def main(task: str) -> None:
    """Do the task that stdin asks for."""
    # Libraries print to stdout as well: the answers get a channel of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**line: Any) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    asked = sys.stdin.buffer.read()
    try:
        if task == "plan":
            from ._here import plan_here
            from ._request import Request

            request = msgspec.json.decode(asked, type=Request)
            found: Any = plan_here(request, lambda what: say(progress=what))
        else:
            from ._layout import LayoutRequest, layout_here

            found = layout_here(msgspec.json.decode(asked, type=LayoutRequest))
    except UserError as error:
        say(error=str(error))
        return
    say(result=msgspec.to_builtins(found))


if __name__ == "__main__":
    main(sys.argv[1])
