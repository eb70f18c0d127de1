"""`make gpu`, as far as it can be seen without one: what would run, what is kept of it, and what the report says."""

import importlib
import sys

import gpu
import overhead
import pytest
import torch
import tyro

PARTS = gpu.parts("out")
SCRIPTS = {name: part for name, part in PARTS.items() if name != "cuda-tests"}


@pytest.mark.parametrize("command", SCRIPTS.values(), ids=SCRIPTS)
def test_the_commands_are_ones_that_the_benchmarks_take(command):
    script = next(word for word in command if word.endswith(".py"))
    module = importlib.import_module(script.removeprefix("benchmarks/").removesuffix(".py"))
    arguments = tyro.cli(module.Arguments, args=command[command.index(script) + 1 :])
    assert str(arguments.out).startswith("out/")
    if hasattr(module, "check"):
        module.check(arguments)


def test_the_cuda_tests_are_among_the_parts():
    assert (gpu.ROOT / PARTS["cuda-tests"][-1]).read_text().count("pytest.mark.cuda") == 1


def test_a_part_is_kept_with_its_status_and_all_it_printed(tmp_path):
    code = "import sys; print('seen'); print('wrong', file=sys.stderr); sys.exit(3)"
    finished = gpu.carry_out("broken", [sys.executable, "-c", code], tmp_path)
    assert finished.status == 3
    assert sorted((tmp_path / "broken.txt").read_text().split()) == ["seen", "wrong"]


def test_the_report_has_a_line_per_part_and_the_end_of_what_it_printed():
    printed = "".join(f"line {number}\n" for number in range(200))
    good = gpu.Finished(["python", "a.py"], 0, 1.6, printed)
    broken = gpu.Finished(["python", "b.py"], 3, 61.2, "oh\n")
    report = gpu.report({"good": good, "broken": broken}, "a GPU")
    assert "| good | passed | 2 |" in report
    assert "| broken | failed with status 3 | 61 |" in report
    assert "line 199\n```" in report
    assert "line 1\n" not in report


def test_without_a_gpu_nothing_runs_and_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "carry_out", lambda *_: pytest.fail("a part was run"))
    gpu.main(tmp_path)
    assert "No GPU" in capsys.readouterr().out


def test_with_a_gpu_all_parts_run_after_one_that_fails_and_the_status_tells(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    ran = []

    def carry_out(name, command, folder):
        ran.append(name)
        return gpu.Finished(command, int(name == "digits"), 1.0, "")

    monkeypatch.setattr(gpu, "carry_out", carry_out)
    with pytest.raises(SystemExit, match="1"):
        gpu.main(tmp_path)
    assert ran == list(PARTS)
    assert "| digits | failed with status 1 | 1 |" in (tmp_path / "report.md").read_text()


def test_the_device_clock_waits_for_what_was_launched_before_and_by_the_work(monkeypatch):
    done = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append("waited"))
    assert overhead.seconds_of(lambda: done.append("worked"), torch.device("cuda")) >= 0
    assert done == ["waited", "worked", "waited"]
