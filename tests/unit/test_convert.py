"""`diffdx convert`: weights come out whole, and nothing that a pickle hides is run."""

import os
import pickle

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from diffdx.cli.app import app


def invoke(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def test_a_state_dictionary_keeps_every_tensor(tmp_path):
    weight = torch.randn(3, 4)
    state = {"a": weight, "tied": weight, "t": weight.T, "step": 7}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "model.ckpt")
    result = invoke(tmp_path / "model.ckpt", "--json")
    assert result.exit_code == 0, result.output
    back = load_file(tmp_path / "model.safetensors")
    assert back.keys() == {"a", "tied", "t"}
    for name, value in back.items():
        torch.testing.assert_close(value, state[name], atol=0, rtol=0)


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, legacy):
    file, trap = tmp_path / "model.bin", tmp_path / "owned"
    torch.save({"a": Hostile(trap)}, file, _use_new_zipfile_serialization=not legacy)
    result = invoke(file)
    assert result.exit_code == 1
    assert "nothing in it was run" in result.stderr
    assert not trap.exists()
    assert not file.with_suffix(".safetensors").exists()


def test_a_bare_hostile_pickle_is_refused(tmp_path):
    file, trap = tmp_path / "model.pt", tmp_path / "owned"
    file.write_bytes(pickle.dumps(Hostile(trap)))
    assert invoke(file).exit_code == 1
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_damaged_file_is_named(tmp_path, content):
    file = tmp_path / "model.bin"
    file.write_bytes(content)
    result = invoke(file)
    assert result.exit_code == 1
    assert "model.bin cannot be read" in result.stderr.replace("\n", " ")


def test_a_file_without_tensors_is_named(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "model.bin")
    result = invoke(tmp_path / "model.bin")
    assert result.exit_code == 1
    assert "holds no tensors" in result.stderr


def test_an_existing_file_is_kept_unless_asked(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "model.bin")
    (tmp_path / "out.safetensors").write_text("mine")
    result = invoke(tmp_path / "model.bin", tmp_path / "out.safetensors")
    assert result.exit_code == 2
    assert (tmp_path / "out.safetensors").read_text() == "mine"
    assert (
        invoke(tmp_path / "model.bin", tmp_path / "out.safetensors", "--overwrite").exit_code == 0
    )
