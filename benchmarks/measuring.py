"""What the benchmarks share: a command timed as a whole process."""
import os
import subprocess
import time


def measure(command, may_end_with=(), **options):
    """Run a command: (wall seconds, CPU seconds, peak memory in MB of its largest process)."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    _, status, usage = os.wait4(process.pid, 0)
    if status and os.waitstatus_to_exitcode(status) not in may_end_with:
        raise SystemExit(f"error: {command} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
