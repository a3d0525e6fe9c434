"""How far a load is: read from a /proc that looks like the real one."""

from pathlib import Path

from preheat_agent.progress import LoadProgress, Signs, Usage, total_bytes, usage

SMAPS = """7f0000000000-7f0006000000 r--p 00000000 08:01 42 /mnt/models/a.gguf
Size:              98304 kB
Rss:               49152 kB
Pss:               49152 kB
7f0010000000-7f0010001000 rw-p 00000000 00:00 0 [heap]
Rss:                4096 kB
"""


def _process(
    proc: Path,
    pid: int,
    name: str,
    parent: int,
    *,
    ticks: int = 0,
    rchar: int = 0,
    smaps: str = "",
    read: int = 0,
) -> None:
    folder = proc / str(pid)
    folder.mkdir()
    fields = ["S", str(parent), *["0"] * 9, str(ticks), "0", *["0"] * 30]
    (folder / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")
    (folder / "io").write_text(f"rchar: {rchar}\nwchar: 0\nread_bytes: {read}\n")
    (folder / "smaps").write_text(smaps)


def test_the_engine_and_its_descendants_count_and_nobody_else(tmp_path: Path) -> None:
    _process(tmp_path, 7, "tritonserver", 1, ticks=5, rchar=100, read=4096)
    _process(tmp_path, 8, "triton_python_b", 7, ticks=7, rchar=1000, smaps=SMAPS, read=8192)
    _process(tmp_path, 9, "python3 (odd) x", 8, ticks=1, rchar=10)
    _process(tmp_path, 20, "python3", 1, ticks=1000, rchar=10**9, smaps=SMAPS)
    seen = usage("tritonserver", "/mnt/models", tmp_path)
    assert seen == Usage(
        processes=3,
        engine_pid=7,
        mapped_bytes=49152 * 1024,
        read_bytes=1110,
        cpu_ticks=13,
        storage_bytes=12288,
    )


def test_progress_never_goes_back_and_never_beyond() -> None:
    progress = LoadProgress(100, 0.0, Usage(1, 7, 0, 1000, 0))
    percents = []
    for now, read in ((1, 1010), (2, 1040), (3, 1030), (4, 1500)):
        progress.update(float(now), Usage(1, 7, 0, read, 0))
        percents.append(progress.percent)
    assert percents == [10, 40, 40, 100]
    assert progress.remaining_seconds == 0


def test_what_came_from_a_disk_is_told_apart_from_the_page_cache() -> None:
    progress = LoadProgress(100, 0.0, Usage(1, 7, 0, 1000, 0, storage_bytes=500))
    progress.update(1.0, Usage(1, 7, 0, 1100, 0, storage_bytes=530))
    assert (progress.bytes_done, progress.storage_bytes) == (100, 30)


def test_time_left_is_not_known_before_there_is_something_to_go_by() -> None:
    progress = LoadProgress(100, 0.0, Usage(1, 7, 0, 0, 0))
    assert progress.remaining_seconds is None
    progress.update(10.0, Usage(1, 7, 25, 0, 0))
    assert progress.remaining_seconds == 30


def test_hidden_files_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"x" * 10)
    (tmp_path / ".preheat-manifest.json").write_bytes(b"x" * 99)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"x" * 5)
    assert total_bytes(str(tmp_path)) == 15


def looks(*usages: Usage, every: float = 0.5) -> list[int]:
    """Return how many signs were seen after each of these looks."""
    signs = Signs()
    return [signs.saw(number * every, look, 0.0) for number, look in enumerate(usages)]


def test_the_noise_of_an_engine_that_waits_is_no_progress() -> None:
    """Triton 2.51, measured while a model slept: 2.8 KB a second read, three ticks of CPU time in 20 seconds."""
    idle = [Usage(2, 7, 0, 1_400 * n, n // 13) for n in range(240)]
    assert looks(*idle)[-1] == 0


def test_a_load_that_is_ten_times_slower_than_a_slow_disk_makes_progress() -> None:
    reading = [Usage(2, 7, 0, 50_000 * n, 0) for n in range(240)]
    computing = [Usage(2, 7, 0, 0, 2 * n) for n in range(240)]
    mapping = [Usage(2, 7, 4096 * n, 0, 0) for n in range(240)]
    for load in (reading, computing, mapping):
        counts = looks(*load)
        for number in range(0, len(counts) - 40, 40):
            assert counts[number + 40] > counts[number], "within twenty seconds"


def test_a_burst_after_a_long_pause_is_progress_and_so_is_another_engine() -> None:
    still, burst = [Usage(2, 7, 0, 0, 0)] * 600, Usage(2, 7, 0, 2_000_000, 0)
    assert looks(*still, burst)[-2:] == [0, 1]
    assert looks(Usage(1, 7, 0, 0, 0), Usage(1, 8, 0, 0, 0))[-1] == 1
    # Weights that are loaded again are mapped again.
    assert looks(*(Usage(1, 7, mapped, 0, 0) for mapped in (9, 0, 5)))[-1] == 2
