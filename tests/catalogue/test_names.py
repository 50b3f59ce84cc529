"""Names of models, as clients write them and as files give them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.catalogue import ModelName
from server.catalogue.names import name_of_file
from server.domain.errors import InvalidRequest


def name(text: str) -> ModelName:
    return ModelName.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        *("smol", "SMOL", "smol:latest", "Smol:LATEST", " smol \n", "library/smol", "Library/smol:latest"),
        *("registry.ollama.ai/library/smol", "registry.ollama.ai/library/smol:latest", "smol:local"),
        *(
            "https://registry.ollama.ai/library/smol:latest",
            "REGISTRY.OLLAMA.AI/LIBRARY/SMOL",
            "smol:latest:local",
        ),
    ],
)
def test_the_same_name(text: str) -> None:
    assert name(text).is_same_as(name("smol"))
    assert name("smol").is_same_as(name(text))
    assert name(text).full.casefold() == "registry.ollama.ai/library/smol:latest"


@pytest.mark.parametrize(
    "text",
    ["smol:q4", "me/smol", "hf.co/library/smol", "smo", "smoll", "smol:latest2", "smol:cloud", "smol-cloud"],
)
def test_another_name(text: str) -> None:
    assert not name(text).is_same_as(name("smol"))


@pytest.mark.parametrize(
    ("text", "display"),
    [
        ("smol", "smol:latest"),
        ("registry.ollama.ai/library/smol", "smol:latest"),
        ("Registry.Ollama.AI/Library/Smol:Q4", "Smol:Q4"),
        ("me/x:q4", "me/x:q4"),
        ("registry.ollama.ai/me/x:q4", "me/x:q4"),
        ("hf.co/org/repo:Q4_K_M", "hf.co/org/repo:Q4_K_M"),
        ("hf.co/library/x", "hf.co/library/x:latest"),
        ("localhost:5000/me/x", "localhost:5000/me/x:latest"),
        ("qwen2.5-coder:7b", "qwen2.5-coder:7b"),
        ("_a:_b", "_a:_b"),
    ],
)
def test_display(text: str, display: str) -> None:
    assert name(text).display == display
    assert name(display).is_same_as(name(text))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            ":",
            ":latest",
            ":local",
            "a:",
            "a::b",
            "a:b:c",
            "/",
            "/a",
            "a/",
            "//a",
            "a//b",
            "/a/b",
            "a/b/",
        ),
        *(
            "h//a",
            "/n/a",
            "h/n/",
            "a/b/c/d",
            "sm ol",
            "smöl",
            "a\nb",
            "a\0",
            "-a",
            ".a",
            "a:-b",
            "a:.b",
            "a!",
            "a@b",
        ),
        *(
            "na.me/a",
            "h:1/n:2/a",
            "https://",
            "x" * 81,
            "a:" + "x" * 81,
            "n" * 81 + "/a",
            "h" * 351 + "/n/a",
            "a\\b",
        ),
        *("../a", "a/../b", "-h/n/a", "ａ"),
    ],
)
def test_no_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^invalid model name$"):
        name(text)


@pytest.mark.parametrize(
    "text", ["x" * 80, "a:" + "x" * 80, "n" * 80 + "/a", "h" * 350 + "/n/a", "h:1/n/a.b_c-d:1.0"]
)
def test_names_up_to_their_longest(text: str) -> None:
    assert name(text).full


@given(st.text(st.sampled_from("aB0_-.:/ ö"), max_size=12))
def test_names_can_be_written_out_and_read_again(text: str) -> None:
    try:
        parsed = name(text)
    except InvalidRequest:
        return
    assert name(parsed.full) == parsed
    assert name(parsed.display).is_same_as(parsed)


@pytest.mark.parametrize("text", ["smol:cloud", "smol:1b-cloud", "me/smol:CLOUD"])
def test_a_name_of_a_model_elsewhere(text: str) -> None:
    assert name(text).is_remote
    with pytest.raises(InvalidRequest, match="use either :local or :cloud, not both"):
        name(f"{text}:local")


@pytest.mark.parametrize("text", ["smol", "smol-cloud", "cloud", "smol:clouds", "smol:cloud-1b"])
def test_a_name_of_a_model_here(text: str) -> None:
    assert not name(text).is_remote


@pytest.mark.parametrize(
    ("file", "display"),
    [
        ("nomic-embed-text-v1.5.Q8_0.gguf", "nomic-embed-text-v1.5:q8_0"),
        ("Qwen3-1.7B-Q4_K_M.gguf", "qwen3-1.7b:q4_k_m"),
        ("qwen2.5-coder-7b-instruct-q4_k_m.gguf", "qwen2.5-coder-7b-instruct:q4_k_m"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct:q4_1"),
        ("gemma-3-4b-it-UD-IQ2_XXS.gguf", "gemma-3-4b-it:ud-iq2_xxs"),
        ("model_f16.GGUF", "model:f16"),
        ("mxbai.BF16.gguf", "mxbai:bf16"),
        ("tiny.gguf", "tiny:latest"),
        ("My Model (v2).gguf", "my-model-v2:latest"),
        ("Q4_0.gguf", "q4_0:latest"),
        ("x" * 100 + ".gguf", "x" * 80 + ":latest"),
        ("me+x@q4.gguf", "me/x:q4"),
        ("hf.co+org+repo@q4_k_m.gguf", "hf.co/org/repo:q4_k_m"),
    ],
)
def test_a_file_gives_a_name(file: str, display: str) -> None:
    found = name_of_file(file)
    assert found is not None
    assert found.display == display


@pytest.mark.parametrize("file", ["---.gguf", "世界.gguf", "@.gguf", "a@b@c@d.gguf"])
def test_a_file_without_a_name_in_it(file: str) -> None:
    assert name_of_file(file) is None


@given(st.text(st.sampled_from("aB0_-.:/"), min_size=1, max_size=12))
def test_the_file_of_a_name_gives_it_back(text: str) -> None:
    try:
        parsed = name(text)
    except InvalidRequest:
        return
    found = name_of_file(f"{parsed.file_stem}.gguf")
    assert found is not None
    assert found.is_same_as(parsed)


def test_files_of_the_longest_names_can_be_written() -> None:
    longest = name("h" * 350 + "/" + "n" * 80 + "/" + "x" * 80 + ":" + "t" * 80)
    other = name("h" * 350 + "/" + "n" * 80 + "/" + "x" * 80 + ":" + "t" * 79)
    assert len(longest.file_stem) < 200
    assert longest.file_stem != other.file_stem
