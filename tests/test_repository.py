"""The package as a whole: its public face, and what must not be in the tree."""

import re
import subprocess
from pathlib import Path

import pytest

import medinfer

ROOT = Path(__file__).parents[1]

PUBLIC = """CheckpointError Decision DisagreementError DivergenceError GoldenReport ImageError ImageSearch InputSpec
MedonnxError MissingExtraError Model ModelError ModelSpec Prediction ProviderError RecipeError ResourceError Rule
Screen Screening SpecError UsageError VariantError __version__ find_images find_rule find_screen load preprocess
read_image verify"""


def test_the_public_names_are_these_and_each_can_be_imported():
    assert medinfer.__all__ == sorted(PUBLIC.split())
    assert dir(medinfer) == medinfer.__all__
    for name in medinfer.__all__:
        assert getattr(medinfer, name) is not None
    with pytest.raises(AttributeError):
        medinfer.nothing_of_the_kind  # noqa: B018


def test_no_module_shares_a_public_functions_name():
    modules = {path.stem for path in (ROOT / "runtime/medinfer").glob("*.py")}
    assert not modules & set(medinfer.__all__)


def test_every_error_has_its_exit_code():
    codes = {name: getattr(medinfer, name).exit_code for name in medinfer.__all__ if name.endswith("Error")}
    assert codes == {
        "CheckpointError": 4,
        "DisagreementError": 6,
        "DivergenceError": 8,
        "ImageError": 3,
        "MedonnxError": 1,
        "MissingExtraError": 2,
        "ModelError": 4,
        "ProviderError": 5,
        "RecipeError": 2,
        "ResourceError": 7,
        "SpecError": 4,
        "UsageError": 2,
        "VariantError": 9,
    }


def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_ignore_pattern_can_take_a_package_out_of_the_wheel():
    lines = (ROOT / ".gitignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert all(pattern.startswith("/") or pattern == "__pycache__/" for pattern in patterns)


def test_no_picture_and_no_weights_are_committed():
    kinds = {path.suffix.lower() for path in tracked()}
    assert not kinds & {".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".dcm", ".pt", ".pth", ".onnx"}


def test_source_files_stay_readable():
    long = {
        str(path.relative_to(ROOT)): count
        for path in tracked()
        if path.suffix == ".py" and (count := len(path.read_text().splitlines())) > 400
    }
    assert not long


def test_the_readme_links_to_what_exists():
    for page in ("README.md", "CONTRIBUTING.md", "docs/contract.md"):
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\(([^)#]+)", text):
            if not target.startswith("http"):
                assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
