"""The scripts of the articles run as a reader would run them: alone and under torchrun."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

DDP = Path(__file__).parents[1] / "code/formulary/ddp"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`, with one thread a process and no GPU: ranks may outnumber them."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = [str(part) for part in command]
    return subprocess.run(
        done, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=300
    )


def final_loss(done: subprocess.CompletedProcess[str]) -> float:
    """The loss that the script reports, once, on stdout."""
    assert done.returncode == 0, done.stdout + done.stderr
    (loss,) = re.findall(r"^final loss (\S+)$", done.stdout, re.MULTILINE)
    return float(loss)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> tuple[float, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("single")
    script = DDP / "train_single_device.py"
    done = run(sys.executable, script, "--save", "model.pt", folder=folder)
    return final_loss(done), torch.load(folder / "model.pt", weights_only=True)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ddp_script_trains_what_one_device_trains(
    single: tuple[float, dict[str, torch.Tensor]], ranks: int, tmp_path: Path
) -> None:
    loss, parameters = single
    script = DDP / "train_ddp.py"
    done = run(*TORCHRUN, f"--nproc_per_node={ranks}", script, "--save", "ddp.pt", folder=tmp_path)
    assert abs(final_loss(done) - loss) < 2e-6  # six digits are printed
    saved = torch.load(tmp_path / "ddp.pt", weights_only=True)
    # float32, 320 steps with another order of summation
    torch.testing.assert_close(saved, parameters, rtol=1e-3, atol=1e-4)


def test_scripts_learn(single: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert 0 < single[0] < 0.05


def test_ddp_script_refuses_a_batch_that_the_ranks_cannot_share(tmp_path: Path) -> None:
    script = DDP / "train_ddp.py"
    done = run(*TORCHRUN, "--nproc_per_node=2", script, "--batch-size", "33", folder=tmp_path)
    assert done.returncode != 0
    assert "--batch-size 必须是进程数 2 的倍数，得到 33" in done.stderr


def pretending(accelerator: str, available: bool, script: Path, folder: Path) -> Path:
    """A script that runs `script` with a torch built for `accelerator`, there or not."""
    wrapper = folder / "pretend.py"
    wrapper.write_text(
        "import runpy\n"
        "import torch\n"
        "def current_accelerator(check_available=False):\n"
        f"    if {available} or not check_available:\n"
        f"        return torch.device({accelerator!r})\n"
        "torch.accelerator.current_accelerator = current_accelerator\n"
        f"torch.accelerator.is_available = lambda: {available}\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')\n",
        "utf-8",
    )
    return wrapper


def test_scripts_run_where_torch_is_built_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    script = pretending("cuda", False, DDP / "train_single_device.py", tmp_path)
    final_loss(run(sys.executable, script, "--epochs", "1", folder=tmp_path))


def test_scripts_leave_an_accelerator_alone_that_cannot_serve(tmp_path: Path) -> None:
    script = pretending("mps", True, DDP / "train_ddp.py", tmp_path)
    launch = (*TORCHRUN, "--nproc_per_node=1", script)
    final_loss(run(*launch, "--cpu", "--epochs", "1", folder=tmp_path))


def test_torchrun_sets_the_environment_that_the_article_lists(tmp_path: Path) -> None:
    names = [
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
        "TORCHELASTIC_RESTART_COUNT",
        "TORCHELASTIC_MAX_RESTARTS",
    ]
    script = tmp_path / "show.py"
    script.write_text(
        "import os\n"
        f"values = [os.environ[name] for name in {names}]\n"
        "open('rank' + os.environ['RANK'], 'w').write('\\n'.join(values))\n",
        "utf-8",
    )
    done = run(*TORCHRUN, "--nproc_per_node=2", "--max-restarts=1", script, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for rank in "01":
        values = dict(zip(names, (tmp_path / f"rank{rank}").read_text().split("\n"), strict=True))
        assert values.pop("MASTER_ADDR")
        assert 0 < int(values.pop("MASTER_PORT")) < 65536
        assert list(values.values()) == [rank, rank, "2", "2", "0", "0", "1"]


def test_old_launcher_passes_the_local_rank_with_a_hyphen(tmp_path: Path) -> None:
    script = tmp_path / "show.py"
    script.write_text("import sys\nopen('arguments', 'w').write(' '.join(sys.argv[1:]))\n", "utf-8")
    launcher = (sys.executable, "-m", "torch.distributed.launch", "--nproc_per_node=1")
    done = run(*launcher, "--master-port=0", script, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "FutureWarning: The module torch.distributed.launch is deprecated" in done.stderr
    assert (tmp_path / "arguments").read_text("utf-8") == "--local-rank=0"


def elastic(folder: Path, *options: str, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    """One launch of the elastic script; its checkpoints and parameters lie in `folder`."""
    folder.mkdir(exist_ok=True)
    job = ("--epochs", "2", "--save-every", "5", "--folder", "checkpoints", "--save", "model.pt")
    command = (*TORCHRUN, f"--nproc_per_node={ranks}", "--max-restarts=1")
    return run(*command, DDP / "train_elastic.py", *job, *options, folder=folder)


def test_elastic_script_loses_nothing_when_a_rank_dies_or_a_checkpoint_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torchrun of torch 2.13 hands restarted ranks the store with the dead ranks' addresses
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    clean, killed = tmp_path / "clean", tmp_path / "killed"
    expected_loss = final_loss(elastic(clean))
    expected = torch.load(clean / "model.pt", weights_only=True)

    done = elastic(killed, "--die-at", "18")
    assert final_loss(done) == expected_loss
    # which rank's exit code torchrun names is chance: the survivor fails soon after the victim
    assert "(exitcode: " in done.stderr
    assert "restart 0, start at step 0\nrestart 1, start at step 15\n" in done.stdout
    saved = torch.load(killed / "model.pt", weights_only=True)
    assert all(torch.equal(saved[name], expected[name]) for name in expected)

    previous, newest = sorted((killed / "checkpoints").glob("step-*"))
    assert (previous.name[:13], newest.name[:13]) == ("step-00000025", "step-00000030")
    newest.write_bytes(newest.read_bytes()[:1000])
    (killed / "model.pt").unlink()
    done = elastic(killed)
    assert final_loss(done) == expected_loss
    assert f"跳过坏了的检查点 {newest.name}：1000 字节，校验和不符" in done.stdout
    assert "restart 0, start at step 25\n" in done.stdout
    saved = torch.load(killed / "model.pt", weights_only=True)
    assert all(torch.equal(saved[name], expected[name]) for name in expected)

    done = elastic(killed, ranks=1)
    assert done.returncode != 0
    assert "检查点是 2 个 rank 存的，现在有 1 个" in done.stderr
