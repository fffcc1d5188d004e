"""When two names may mean one base."""

import pytest

from loratools.names.bases import is_telling, short_name


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("meta-llama/Llama-2-7b", "llama-2-7b"),
        ("/models/Llama-2-7b/", "llama-2-7b"),
        (r"C:\models\Llama-2-7b", "llama-2-7b"),
        ("hf://meta-llama/Llama-2-7b@main", "llama-2-7b"),
        ("hf://meta-llama/Llama-2-7b/model.safetensors", "llama-2-7b"),
        ("~/.cache/hub/models--meta-llama--Llama-2-7b/snapshots/0f1e/", "llama-2-7b"),
        ("models--gpt2/snapshots/0f1e/model.safetensors", "gpt2"),
        ("sd_xl_base_1.0.safetensors", "sd_xl_base_1.0"),
        ("gpt2", "gpt2"),
        ("./", ""),
        ("", ""),
    ],
)
def test_name_is_compared_without_owner_and_folder(name: str, short: str) -> None:
    assert short_name(name) == short


def test_folder_does_not_say_which_model_it_has() -> None:
    assert is_telling("hf://a/b")
    assert is_telling("/hub/models--a--b/snapshots/1")
    assert not is_telling("/models/base")
